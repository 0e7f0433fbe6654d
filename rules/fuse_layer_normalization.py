"""LayerNormalization from means, differences and a root."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseLayerNormalization(Rule):
    """One LayerNormalization for (x − mean) / √(variance + ε), with its scale and bias.

    The square may be a Pow or a Mul, the division a Div or a Reciprocal. The mean must run over
    the last axes, and scale and bias must have just their dims. Without a scale one of ones is
    made, where the dims are known.
    Source: ONNX operator LayerNormalization-17; PyTorch's TorchScript and dynamo exporters.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "d = Sub(x, ReduceMean(x))  y = Add(Mul(Div(d, Sqrt(Add(ReduceMean(d*d), e))), s), b)",
        "y = LayerNormalization(x, s, b, epsilon=e)",
    )
    opsets = (17, None)

    def pattern(self, op, x: Value, a: Const | None, b: Const | None, e: Const, s: Value, t: Value):
        mean = op.ReduceMean(x, a, keepdims=1).named("mean")
        centred = op.Sub(x, mean)
        square = op.either(op.Pow(centred, 2.0), op.Mul(centred, centred))
        variance = op.ReduceMean(square, b, keepdims=1).named("variance")
        shifted = op.Add(variance, e)
        deviation = op.either(op.Sqrt(shifted), op.Pow(shifted, 0.5))
        normal = op.Div(centred, deviation)
        inverse = op.either(op.Reciprocal(deviation), op.Div(1.0, deviation), op.Pow(shifted, -0.5))
        product = op.Mul(centred, inverse)
        either = op.either(normal, product)
        return op.either(op.Add(op.Mul(either, s), t), op.Mul(either, s), normal, product)

    def rewrite(self, op, hit):
        hit.match(hit.x.rank)
        axes = sorted(axis % hit.x.rank for axis in hit.mean.axes() or range(hit.x.rank))
        others = sorted(axis % hit.x.rank for axis in hit.variance.axes() or range(hit.x.rank))
        hit.match(axes == others and hit.e.size == 1)
        hit.require(
            axes == list(range(axes[0], hit.x.rank)),
            "the mean does not run over the last axes",
        )
        dims = hit.x.shape[axes[0] :]
        scale = hit.s
        if scale is None:
            hit.require(all(isinstance(dim, int) for dim in dims), "the normalized size is dynamic")
            scale = op.const(np.ones(dims), dtype=hit.x.dtype)
        else:
            hit.match(scale.shape == dims and scale.dtype == hit.x.dtype)
        if hit.t is not None:
            hit.match(hit.t.shape == dims and hit.t.dtype == hit.x.dtype)
        return op.LayerNormalization(
            hit.x, scale, hit.t, axis=axes[0] - hit.x.rank, epsilon=hit.e.scalar
        )
