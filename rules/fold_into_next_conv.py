"""What comes before a convolution, folded into its weight and bias."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import Affine, of_batch_norm, of_elementwise
from onnxopt.rewrite.convolution import ConvWeight, is_unpadded, keeps_shape, rebuilt, with_bias

PADDED = "the convolution pads its input with zeros, which the shift before it does not reach"


class FoldBatchNormIntoNextConv(Rule):
    """Take a BatchNormalization into the weight and bias of the convolution that reads it.

    The convolution must not pad: zeros that it adds would have to be shifted as well.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(BatchNormalization(x, s, t, m, v), w)", "y = Conv(x, w2, b2)")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        norm = op.BatchNormalization(x, s, t, m, v).named("norm")
        return op.one_of("Conv", "ConvTranspose")(norm, w, b).named("conv")

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        affine = of_batch_norm(hit, hit.norm, weight.inputs)
        return _before(op, hit, weight, affine, hit.t)


class FoldConstantIntoNextConv(Rule):
    """Take a constant Mul, Div, Add or Sub into the convolution that reads it.

    The constant must be one number, or one for each input channel. A product commutes with
    padding by zeros; for a sum the convolution must not pad.
    """

    exactness = Exactness.CLOSE
    example = Example("s = Mul(x, c)  y = Conv(s, w, b)", "y = Conv(x, w2, b)")

    def pattern(self, op, x: Value, w: Const, b: Const | None, c: Const):
        before = op.either(op.one_of("Add", "Sub", "Mul", "Div")(x, c), op.Sub(c, x))
        return op.one_of("Conv", "ConvTranspose")(before, w, b).named("conv")

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        node = hit.conv.input(0).producer
        affine = of_elementwise(hit, node, hit.c, weight.rank, 1, weight.inputs)
        hit.match(keeps_shape(hit.x, hit.c, weight))
        return _before(op, hit, weight, affine, hit.c)


def _before(op: Any, hit: Any, weight: ConvWeight, affine: Affine, like: Any) -> Any:
    shifts = affine.shift is not None and affine.shift.any()
    hit.require(not shifts or is_unpadded(hit.conv, weight), PADDED)
    bias = with_bias(weight, hit.b and hit.b.array, affine.shift if shifts else None)
    return rebuilt(op, hit, weight.scale_inputs(affine), bias, like)
