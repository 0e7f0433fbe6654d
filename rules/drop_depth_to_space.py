"""DepthToSpace and SpaceToDepth that move nothing, or that undo each other."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class DropDepthToSpace(Rule):
    """Leave a DepthToSpace or SpaceToDepth out with blocks of one element."""

    exactness = Exactness.EXACT
    example = Example("y = DepthToSpace(x, blocksize=1)", "y = x")

    def pattern(self, op, x: Value):
        return op.one_of("DepthToSpace", "SpaceToDepth")(x, blocksize=1)

    def rewrite(self, op, hit):
        return hit.x


class DropDepthToSpacePair(Rule):
    """Leave a DepthToSpace and a SpaceToDepth out where the second undoes the first.

    Needs: the same blocks, and the mode DCR in both; before opset 28 SpaceToDepth knows no other.
    """

    exactness = Exactness.EXACT
    example = Example("y = SpaceToDepth(DepthToSpace(x, blocksize=2), blocksize=2)", "y = x")

    def pattern(self, op, x: Value):
        names = ("DepthToSpace", "SpaceToDepth")
        return op.one_of(*names)(op.one_of(*names)(x).shared().named("inner")).named("outer")

    def rewrite(self, op, hit):
        inner, outer = hit.inner, hit.outer
        hit.match(inner.op_type != outer.op_type)
        hit.match(inner.attr("blocksize") == outer.attr("blocksize"))
        hit.match(all(each.attr("mode") in (None, "DCR", b"DCR") for each in (inner, outer)))
        return hit.x
