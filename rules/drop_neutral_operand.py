"""Arithmetic and logic with an operand that changes nothing."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, dims

_EITHER_SIDE = {"Mul": 1, "And": 1, "Or": 0, "Xor": 0, "BitwiseOr": 0, "BitwiseXor": 0}
_SECOND = {"Sub": 0, "Div": 1, "Pow": 1, "BitShift": 0}


class DropNeutralOperand(Rule):
    """Leave out a product with 1, a quotient by 1, a difference to 0, a power of 1, `x and true` …

    Needs: the constant does not spread the other operand over more elements. A sum with 0 counts
    for integers (and with -0.0 for floats); with 0.0 it turns -0.0 into 0.0: see drop_add_zero.
    """

    exactness = Exactness.EXACT
    example = Example("y = Mul(x, 1)", "y = x")

    def pattern(self, op, x: Value, c: Const):
        return op.one_of("Add", *_EITHER_SIDE, *_SECOND)(x, c)

    def rewrite(self, op, hit):
        number, op_type = hit.c.filled, hit.root.op_type
        neutral = {**_EITHER_SIDE, **_SECOND, "Add": 0}[op_type]
        hit.match(number == neutral and dims.stretches_to(hit.c, hit.x))
        floats = hit.x.dtype is None or hit.x.dtype.is_floating_point()
        hit.match(not floats or number != 0 or _is_negative_zero(number) == (op_type == "Add"))
        return hit.x


class DropAddZero(Rule):
    """Leave a sum with zero out, and a difference to it.

    Only the sign of a zero can change. Needs: the constant does not spread the other operand.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(x, 0)", "y = x")

    def pattern(self, op, x: Value, c: Const):
        return op.one_of("Add", "Sub")(x, c)

    def rewrite(self, op, hit):
        hit.match(hit.c.filled == 0 and dims.stretches_to(hit.c, hit.x))
        return hit.x


def _is_negative_zero(number: float) -> bool:
    return str(number).startswith("-")
