"""Gelu from the pieces exporters spell it with."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class FuseGelu(Rule):
    """One Gelu for x/2 · (1 + erf(x/√2)).

    Every association of the product is known. Gelu is an operator from opset 20 on; before that
    onnxruntime fuses the pieces itself when it loads the model, and they stay as they are.
    Source: ONNX operator Gelu-20, approximate="none".
    """

    exactness = Exactness.CLOSE
    example = Example("y = Mul(Mul(x, 0.5), Add(Erf(Div(x, 1.41421)), 1))", "y = Gelu(x)")
    opsets = (20, None)

    def pattern(self, op, x: Value):
        scaled = op.either(op.Div(x, 1.4142135), op.Mul(x, 0.70710678))
        gate = op.Add(op.Erf(scaled), 1.0)
        return op.either(
            op.Mul(op.Mul(x, gate), 0.5),
            op.Mul(op.Mul(x, 0.5), gate),
            op.Mul(x, op.Mul(gate, 0.5)),
        )

    def rewrite(self, op, hit):
        return op.Gelu(hit.x)


class FuseGeluTanh(Rule):
    """One Gelu(approximate="tanh") for x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))).

    The cube may be a Pow or two Mul. Source: ONNX operator Gelu-20, approximate="tanh".
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = 0.5 * x * (1 + Tanh(0.797885 * (x + 0.044715 * Pow(x, 3))))",
        'y = Gelu(x, approximate="tanh")',
    )
    opsets = (20, None)

    def pattern(self, op, x: Value):
        cube = op.either(op.Pow(x, 3.0), op.Mul(x, op.Mul(x, x)))
        cubic = op.either(
            op.Mul(cube, 0.044715),
            op.Mul(x, op.Mul(x, op.Mul(x, 0.044715))),
            op.Mul(op.Mul(x, x), op.Mul(x, 0.044715)),
            op.Mul(x, op.Mul(op.Mul(x, x), 0.044715)),
        )
        inner = op.either(
            op.Mul(op.Add(x, cubic), 0.7978845),
            op.Mul(op.Mul(x, 0.7978845), op.Add(op.Mul(op.Mul(x, x), 0.044715), 1.0)),
            op.Mul(x, op.Mul(op.Add(op.Mul(op.Mul(x, x), 0.044715), 1.0), 0.7978845)),
        )
        gate = op.Add(op.Tanh(inner), 1.0)
        return op.either(
            op.Mul(op.Mul(x, 0.5), gate),
            op.Mul(op.Mul(x, gate), 0.5),
            op.Mul(x, op.Mul(gate, 0.5)),
        )

    def rewrite(self, op, hit):
        return op.Gelu(hit.x, approximate="tanh")
