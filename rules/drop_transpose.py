"""Transpositions that move nothing."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, dims


class DropTranspose(Rule):
    """Leave a Transpose out that keeps every axis, or swaps axes of size one only."""

    exactness = Exactness.EXACT
    example = Example("y = Transpose(x, perm=[0, 1, 2])", "y = x")

    def pattern(self, op, x: Value):
        return op.Transpose(x)

    def rewrite(self, op, hit):
        perm = hit.root.attr("perm")
        if perm is None:
            hit.match(hit.x.rank is not None)
            perm = range(hit.x.rank)[::-1]
        idle = list(perm) == sorted(perm)
        hit.match(
            idle or (dims.keeps_order(perm, hit.x.shape) and hit.x.same_shape(hit.root.output))
        )
        return hit.x
