"""Splits into one piece."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values


class DropSplit(Rule):
    """Leave a Split out that has one output."""

    exactness = Exactness.EXACT
    example = Example("y = Split(x, num_outputs=1)", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.Split(x, rest)

    def rewrite(self, op, hit):
        hit.match(len(hit.root.outputs) == 1)
        return hit.x
