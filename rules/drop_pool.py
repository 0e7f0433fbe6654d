"""Pools over windows of one element."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class DropPool(Rule):
    """Leave a pool out whose windows hold one element each: a 1x1 kernel, or a 1x1 picture.

    Needs: strides of one, no pads, and indices that nobody reads.
    """

    exactness = Exactness.CLOSE
    example = Example("y = AveragePool(x, kernel_shape=[1, 1])", "y = x")

    def pattern(self, op, x: Value):
        kinds = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
        return op.one_of(*kinds)(x)

    def rewrite(self, op, hit):
        if hit.root.is_op("GlobalAveragePool", "GlobalMaxPool"):
            hit.match(hit.x.rank is not None)
            hit.match(all(hit.x.dim(axis) == 1 for axis in range(2, hit.x.rank)))
            return hit.x
        hit.match(set(hit.root.attr("kernel_shape")) == {1})
        hit.match(set(hit.root.attr("strides") or [1]) == {1})
        hit.match(not any(hit.root.attr("pads") or []))
        return hit.x
