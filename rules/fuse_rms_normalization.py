"""RMSNormalization from a mean of squares and a root."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseRmsNormalization(Rule):
    """One RMSNormalization for x / √(mean(x²) + ε), with its scale.

    The inverse may be a Reciprocal, a Div or a power. The mean must run over the last axes, and
    the scale must have just their dims.
    Source: ONNX operator RMSNormalization-23; the Llama family as PyTorch exports it.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Mul(Mul(x, Reciprocal(Sqrt(Add(ReduceMean(Pow(x, 2)), e)))), s)",
        "y = RMSNormalization(x, s, epsilon=e)",
    )
    opsets = (23, None)

    def pattern(self, op, x: Value, a: Const | None, e: Const, s: Value):
        square = op.either(op.Pow(x, 2.0), op.Mul(x, x))
        mean = op.ReduceMean(square, a, keepdims=1).named("mean")
        shifted = op.Add(mean, e)
        root = op.either(op.Sqrt(shifted), op.Pow(shifted, 0.5))
        inverse = op.either(op.Reciprocal(root), op.Div(1.0, root), op.Pow(shifted, -0.5))
        quotient = op.Div(x, root)
        product = op.Mul(x, inverse)
        return op.either(op.Mul(op.either(quotient, product), s), quotient, product)

    def rewrite(self, op, hit):
        hit.match(hit.x.rank and hit.e.size == 1)
        axes = sorted(axis % hit.x.rank for axis in hit.mean.axes() or range(hit.x.rank))
        hit.require(
            axes == list(range(axes[0], hit.x.rank)), "the mean does not run over the last axes"
        )
        dims = hit.x.shape[axes[0] :]
        scale = hit.s
        if scale is None:
            hit.require(all(isinstance(dim, int) for dim in dims), "the normalized size is dynamic")
            scale = op.const(np.ones(dims), dtype=hit.x.dtype)
        else:
            hit.match(scale.shape == dims and scale.dtype == hit.x.dtype)
        return op.RMSNormalization(
            hit.x, scale, axis=axes[0] - hit.x.rank, epsilon=hit.e.scalar
        )  # fmt: skip
