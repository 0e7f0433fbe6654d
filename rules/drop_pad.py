"""Pads that add nothing."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms


class DropPad(Rule):
    """Leave a Pad out whose pads are all zero."""

    exactness = Exactness.EXACT
    example = Example("y = Pad(x, [0, 0, 0, 0])", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.Pad(x, rest)

    def rewrite(self, op, hit):
        before, after = forms.pads(hit.root)
        hit.match(not any(before) and not any(after))
        return hit.x
