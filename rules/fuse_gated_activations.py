"""Swish and Mish: a tensor times a gate made of itself."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseMish(Rule):
    """One Mish for x · tanh(softplus(x)).

    Source: ONNX operator Mish-18; YOLO heads from PyTorch.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Mul(x, Tanh(Softplus(x)))", "y = Mish(x)")
    opsets = (18, None)

    def pattern(self, op, x: Value):
        softplus = op.either(op.Softplus(x), op.Log(op.Add(op.Exp(x), 1.0)))
        return op.Mul(x, op.Tanh(softplus))

    def rewrite(self, op, hit):
        return op.Mish(hit.x)


class FuseSwish(Rule):
    """One Swish for x · sigmoid(alpha · x), also called SiLU.

    Off unless enabled: onnxruntime 1.31 expands Swish again and then misses its own QuickGelu
    fusion (0.67x measured). Source: ONNX operator Swish-24; EfficientNet and YOLO from PyTorch.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Mul(x, Sigmoid(x))", "y = Swish(x)")
    opsets = (24, None)
    off_because = "onnxruntime's CPU provider has no Swish kernel and runs the two pieces faster"

    def pattern(self, op, x: Value, alpha: Const):
        return op.Mul(x, op.Sigmoid(op.either(op.Mul(x, alpha), x)))

    def rewrite(self, op, hit):
        if hit.alpha is None:
            return op.Swish(hit.x)
        hit.match(hit.alpha.scalar is not None and hit.root.output.same_shape(hit.x))
        return op.Swish(hit.x, alpha=hit.alpha.scalar)
