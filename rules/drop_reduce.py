"""Reductions over nothing."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms

_OF_ONE_IS_ITSELF = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")


class DropReduce(Rule):
    """Leave a reduction out that no axis takes part in, or axes of size one only.

    Without keepdims those axes go in a Squeeze. Source: ONNX operators ReduceSum-13, ReduceMean-18
    (noop_with_empty_axes).
    """

    exactness = Exactness.CLOSE
    example = Example("y = ReduceMean(x, axes=[1])  # x is [N, 1, 4]", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.one_of(*_OF_ONE_IS_ITSELF)(x, rest)

    def rewrite(self, op, hit):
        axes = hit.root.axes()
        if not axes:
            hit.match(hit.x.rank == 0 or hit.root.attr("noop_with_empty_axes"))
            return hit.x
        axes = forms.normal_axes(axes, hit.x.rank)
        hit.match(all(hit.x.dim(axis) == 1 for axis in axes))
        return hit.x if hit.root.attr("keepdims") else forms.with_axes(op, "Squeeze", hit.x, axes)
