"""Clips without bounds."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms


class DropClip(Rule):
    """Leave a Clip out whose bounds let every finite number through."""

    exactness = Exactness.CLOSE
    example = Example("y = Clip(x, -inf, inf)", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.Clip(x, rest)

    def rewrite(self, op, hit):
        low, high = forms.bounds(hit.root)
        hit.match(hit.x.dtype is not None or (low is None and high is None))
        hit.match(low is None or low <= float(hit.x.dtype.min))
        hit.match(high is None or high >= float(hit.x.dtype.max))
        return hit.x
