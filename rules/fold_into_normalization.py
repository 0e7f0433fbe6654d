"""Constants around a normalization of channels, folded into its scale and bias."""

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
