"""Gathers of everything."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class DropGather(Rule):
    """Leave a Gather out whose indices are 0, 1, 2 … to the end of the axis."""

    exactness = Exactness.EXACT
    example = Example("y = Gather(x, [0, 1, 2], axis=1)  # x is [N, 3]", "y = x")

    def pattern(self, op, x: Value, indices: Const):
        return op.Gather(x, indices)

    def rewrite(self, op, hit):
        size = hit.x.dim(hit.root.attr("axis"))
        hit.match(size is not None and hit.indices.rank == 1)
        hit.match(hit.indices.ints == list(range(size)))
        return hit.x
