"""Functions that undo themselves, and functions that a second turn does not change."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value

_INVOLUTIONS = ("Neg", "Not", "BitwiseNot")
_ROUNDING = ("Ceil", "Floor", "Round")
_NEVER_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")


class DropInversePair(Rule):
    """Leave out two negations in a row."""

    exactness = Exactness.EXACT
    example = Example("y = Not(Not(x))", "y = x")

    def pattern(self, op, x: Value):
        return op.either(*(_twice(op, name, x) for name in _INVOLUTIONS))

    def rewrite(self, op, hit):
        return hit.x


class DropReciprocalPair(Rule):
    """Leave out the reciprocal of a reciprocal."""

    exactness = Exactness.CLOSE
    example = Example("y = Reciprocal(Reciprocal(x))", "y = x")

    def pattern(self, op, x: Value):
        return _twice(op, "Reciprocal", x)

    def rewrite(self, op, hit):
        return hit.x


class DropRepeated(Rule):
    """Leave out the second Relu, Abs, Sign, Ceil, Floor or Round of what went through one."""

    exactness = Exactness.EXACT
    example = Example("y = Relu(Relu(x))", "y = Relu(x)")

    def pattern(self, op, x: Value):
        rounded = op.one_of(*_ROUNDING)(x).shared().named("inner")
        again = (op.one_of(name)(_one(op, name, x)) for name in ("Relu", "Abs", "Sign"))
        return op.either(op.one_of(*_ROUNDING)(rounded), *again)

    def rewrite(self, op, hit):
        return hit.root.input(0)


class DropReluOfPositive(Rule):
    """Leave out a Relu or Abs of what is never negative, as the result of a Sigmoid or Softmax."""

    exactness = Exactness.CLOSE
    example = Example("y = Relu(Sigmoid(x))", "y = Sigmoid(x)")

    def pattern(self, op, x: Value):
        return op.one_of("Relu", "Abs")(x)

    def rewrite(self, op, hit):
        before = hit.x.producer
        hit.match(before is not None and before.is_op(*_NEVER_NEGATIVE))
        return hit.x


def _one(op: Any, name: str, x: Any) -> Any:
    return op.one_of(name)(x).shared()


def _twice(op: Any, name: str, x: Any) -> Any:
    return op.one_of(name)(_one(op, name, x))
