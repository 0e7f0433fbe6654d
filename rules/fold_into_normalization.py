"""Constants around a normalization, folded into its scale and bias."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values
from onnxopt.rewrite.affine import folded, of_elementwise, require_inference, wide_array


class FoldConstantIntoNormalization(Rule):
    """Take a constant Mul, Div, Add or Sub after a normalization of channels into its parameters.

    Covers Batch-, Instance- and GroupNormalization (with a scale for each channel). The constant
    must be one number, or one for each channel. Source: Caffe's BatchNorm and Scale in a row.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Mul(BatchNormalization(x, s, t, m, v), c)", "y = BatchNormalization(x, s2, t2, m, v)"
    )

    def pattern(self, op, x: Value, s: Const, t: Const, statistics: Values, c: Const):
        norms = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
        norm = op.one_of(*norms)(x, s, t, statistics).named("norm")
        return op.either(op.one_of("Add", "Sub", "Mul", "Div")(norm, c), op.Sub(c, norm))

    def rewrite(self, op, hit):
        channels = hit.s.size
        hit.match(hit.x.rank and hit.x.dim(1) == channels)
        if hit.norm.op_type == "BatchNormalization":
            require_inference(hit, hit.norm)
        affine = of_elementwise(hit, hit.root, hit.c, hit.x.rank, 1, channels)
        scale = folded(op, hit, affine.scaled(hit.s.array, (channels,)), hit.s)
        bias = folded(op, hit, affine.of(hit.t.array), hit.t)
        return op.node(hit.norm.op_type, [hit.x, scale, bias, *hit.statistics], like=hit.norm)


class FoldConstantIntoNextBatchNorm(Rule):
    """Take a constant Mul, Div, Add or Sub before a BatchNormalization into its parameters."""

    exactness = Exactness.CLOSE
    example = Example(
        "y = BatchNormalization(Add(x, c), s, t, m, v)", "y = BatchNormalization(x, s, t, m2, v)"
    )

    def pattern(self, op, x: Value, c: Const, s: Const, t: Const, m: Const, v: Const):
        before = op.either(op.one_of("Add", "Sub", "Mul", "Div")(x, c), op.Sub(c, x))
        return op.BatchNormalization(before, s, t, m, v).named("norm")

    def rewrite(self, op, hit):
        channels = hit.s.size
        hit.match(hit.x.rank and hit.x.dim(1) == channels)
        require_inference(hit, hit.norm)
        node = hit.norm.input(0).producer
        affine = of_elementwise(hit, node, hit.c, hit.x.rank, 1, channels)
        scale, mean = hit.s, wide_array(hit.m.array)
        if affine.shift is not None:
            mean = mean - affine.shift
        bias = hit.t
        if affine.gain is not None:
            # Scaled in front, the mean is taken off in the bias: a gain may be zero.
            root = np.sqrt(wide_array(hit.v.array) + hit.norm.attr("epsilon"))
            moved = wide_array(hit.t.array) - mean * wide_array(hit.s.array) / root
            scale = folded(op, hit, affine.scaled(hit.s.array, (channels,)), hit.s)
            bias, mean = folded(op, hit, moved, hit.t), np.zeros(channels)
        return op.BatchNormalization(
            hit.x, scale, bias, folded(op, hit, mean, hit.m), hit.v, like=hit.norm
        )


class FoldConstantIntoLayerNorm(Rule):
    """Take a constant Mul, Div, Add or Sub after a LayerNormalization into its scale and bias.

    The constant must broadcast to the normalized dims. An RMSNormalization takes factors only.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Mul(LayerNormalization(x, s, t), c)", "y = LayerNormalization(x, s2, t2)"
    )

    def pattern(self, op, x: Value, s: Const, t: Const | None, c: Const):
        norm = op.one_of("LayerNormalization", "RMSNormalization")(x, s, t).named("norm")
        return op.one_of("Add", "Sub", "Mul", "Div")(norm, c)

    def rewrite(self, op, hit):
        numbers, scale = wide_array(hit.c.array), wide_array(hit.s.array)
        hit.match(_within(hit.c.array, hit.s.array))
        bias = None if hit.t is None else wide_array(hit.t.array)
        if hit.root.op_type in ("Mul", "Div"):
            hit.require(hit.root.op_type == "Mul" or numbers.all(), "it divides by zero")
            factor = numbers if hit.root.op_type == "Mul" else 1 / numbers
            scale, bias = scale * factor, None if bias is None else bias * factor
        else:
            hit.match(hit.norm.op_type == "LayerNormalization")
            shift = numbers if hit.root.op_type == "Add" else -numbers
            bias = np.broadcast_to((0 if bias is None else bias) + shift, scale.shape)
        operands = [folded(op, hit, scale, hit.s)]
        if bias is not None:
            operands.append(folded(op, hit, bias, hit.t or hit.c, hit.s.dtype))
        return op.node(hit.norm.op_type, [hit.x, *operands], like=hit.norm)


def _within(array: Any, scale: Any) -> bool:
    """Whether the constant broadcasts to the dims of the scale without leading ones."""
    dims = array.shape[-scale.ndim :] if scale.ndim else ()
    lead = array.shape[: array.ndim - len(dims)]
    fits = all(dim in (1, size) for dim, size in zip(dims[::-1], scale.shape[::-1], strict=False))
    return not lead and fits
