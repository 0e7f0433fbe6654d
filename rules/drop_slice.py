"""Slices that take everything."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms


class DropSlice(Rule):
    """Leave a Slice out that takes every element in order.

    Needs: steps of one, and either a shape that provably stays, or constant bounds from the start
    to the end.
    """

    exactness = Exactness.EXACT
    example = Example("y = Slice(x, [0], [9223372036854775807], [1])", "y = x")

    def pattern(self, op, x: Value, bounds: Values):
        return op.Slice(x, bounds)

    def rewrite(self, op, hit):
        steps = hit.root.input(4)
        hit.match(steps is None or set(steps.ints or [0]) == {1})
        if not hit.x.same_shape(hit.root.output):
            for part in forms.parts(hit.root):
                hit.match(part.start == 0 and part.end >= forms.END)
        return hit.x
