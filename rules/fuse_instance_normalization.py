"""InstanceNormalization and GroupNormalization from what exporters write for them."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseInstanceNormalization(Rule):
    """One InstanceNormalization for (x − mean) / √(variance + ε) per channel, scaled and shifted.

    The means must run over all axes behind the channels; scale and bias are constants with one
    number a channel. Without them, ones and zeros are made.
    Source: ONNX operator InstanceNormalization; TensorFlow and Keras exporters.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "d = Sub(x, ReduceMean(x))  y = Add(Mul(Div(d, Sqrt(Add(ReduceMean(d*d), e))), s), b)",
        "y = InstanceNormalization(x, s, b, epsilon=e)",
    )

    def pattern(self, op, x: Value, a: Const | None, b: Const | None, e: Const, s: Const, t: Const):
        mean = op.ReduceMean(x, a, keepdims=1).named("mean")
        centred = op.Sub(x, mean)
        square = op.either(op.Pow(centred, 2.0), op.Mul(centred, centred))
        variance = op.ReduceMean(square, b, keepdims=1).named("variance")
        deviation = op.Sqrt(op.Add(variance, e))
        normal = op.either(op.Div(centred, deviation), op.Mul(centred, op.Reciprocal(deviation)))
        return op.either(
            op.Add(op.Mul(normal, s), t),
            op.Div(centred, deviation),
            op.Mul(centred, op.Reciprocal(deviation)),
        )

    def rewrite(self, op, hit):
        hit.match(hit.x.rank in (3, 4, 5) and hit.e.size == 1)
        spatial = list(range(2, hit.x.rank))
        for node in (hit.mean, hit.variance):
            hit.match(sorted(axis % hit.x.rank for axis in node.axes() or ()) == spatial)
        channels = hit.x.dim(1)
        hit.require(channels is not None, "the number of channels is dynamic")
        scale = _per_channel(hit, hit.s, channels, 1.0)
        bias = _per_channel(hit, hit.t, channels, 0.0)
        return op.InstanceNormalization(
            hit.x,
            op.const(scale, dtype=hit.x.dtype),
            op.const(bias, dtype=hit.x.dtype),
            epsilon=hit.e.scalar,
        )


class FuseGroupNormalization(Rule):
    """One GroupNormalization for Reshape, InstanceNormalization, Reshape, Mul and Add.

    Off unless enabled: onnxruntime's CPU provider has no kernel for it and runs the pieces it is
    defined by at half the speed of the InstanceNormalization (measured); TensorRT and others gain.
    Source: ONNX operator GroupNormalization-21; PyTorch's TorchScript exporter.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "n = InstanceNormalization(Reshape(x, [0, groups, -1]), 1, 0)"
        "  y = Add(Mul(Reshape(n, shape), s), b)",
        "y = GroupNormalization(x, s, b, num_groups=groups)",
    )
    opsets = (21, None)
    off_because = "onnxruntime's CPU provider runs the InstanceNormalization faster"

    def pattern(
        self, op, x: Value, split: Const, one: Const, zero: Const, merge: Value, s: Const, t: Const
    ):
        normal = op.InstanceNormalization(op.Reshape(x, split).named("split"), one, zero)
        return op.Add(op.Mul(op.Reshape(normal.named("normal"), merge).named("merge"), s), t)

    def rewrite(self, op, hit):
        hit.match((hit.one.array == 1).all() and (hit.zero.array == 0).all())
        grouped = hit.split.output.shape
        hit.match(grouped is not None and len(grouped) == 3 and isinstance(grouped[1], int))
        hit.match(hit.x.rank and hit.merge.output.same_shape(hit.x))
        hit.match(grouped[0] == hit.x.shape[0] and hit.x.dim(1) is not None)
        return op.GroupNormalization(
            hit.x,
            op.const(_per_channel(hit, hit.s, hit.x.dim(1), 1.0), dtype=hit.x.dtype),
            op.const(_per_channel(hit, hit.t, hit.x.dim(1), 0.0), dtype=hit.x.dtype),
            num_groups=grouped[1],
            epsilon=hit.normal.attr("epsilon"),
        )


def _per_channel(hit, operand, channels, default):
    """The constant as one number a channel; Unmatched where it varies along another axis."""
    if operand is None:
        return np.full(channels, default)
    shape = operand.array.shape
    places = hit.x.rank - 1
    wide = (1,) * (hit.x.rank - len(shape)) + shape
    hit.match(len(wide) == hit.x.rank)
    hit.match(all(size == 1 for axis, size in enumerate(wide) if axis != 1))
    hit.match(wide[1] in (1, channels) and len(shape) <= places + 1)
    return np.broadcast_to(operand.array.reshape(wide[1]), (channels,))
