"""Variadic operators of one operand, and operators of one and the same."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values


class DropSingleOperand(Rule):
    """Leave a Sum, Mean, Max or Min of one operand out; a Max, Min, And, Or of one and the same."""

    exactness = Exactness.EXACT
    example = Example("y = Sum(x)", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.one_of("Sum", "Mean", "Max", "Min", "And", "Or")(x, rest)

    def rewrite(self, op, hit):
        hit.match(not hit.rest or not hit.root.is_op("Sum", "Mean"))
        hit.match(all(each == hit.x for each in hit.rest))
        return hit.x
