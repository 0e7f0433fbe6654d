"""What comes before a convolution, folded into its weight and bias."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import FUSED, Affine, ends_fusion, of_batch_norm, of_elementwise
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
    """Take a constant Mul, Div, Add or Sub into the convolutions that read it.

    The constant must be one number, or one for each input channel. A product commutes with
    padding by zeros; for a sum no convolution may pad.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(Mul(x, s), w, b)", "y = Conv(x, w2, b)")

    def pattern(self, op, x: Value, w: Const, b: Const | None, c: Const):
        before = op.either(
            op.one_of("Add", "Sub", "Mul", "Div")(x, c).shared(), op.Sub(c, x).shared()
        )
        return op.one_of("Conv", "ConvTranspose")(before, w, b).named("conv")

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        before = hit.conv.input(0)
        affine = of_elementwise(hit, before.producer, hit.c, weight.rank, 1, weight.inputs)
        hit.match(keeps_shape(hit.x, hit.c, weight))
        hit.require(not ends_fusion(hit.x), FUSED)
        others = [node for node in before.readers if node != hit.conv]
        hit.match(not before.is_graph_output and all(_takes(node, affine) for node in others))
        return _before(op, hit, weight, affine, hit.c)


def _before(op: Any, hit: Any, weight: ConvWeight, affine: Affine, like: Any) -> Any:
    shifts = affine.shift is not None and affine.shift.any()
    hit.require(not shifts or is_unpadded(hit.conv, weight), PADDED)
    bias = with_bias(weight, hit.b and hit.b.array, affine.shift if shifts else None)
    return rebuilt(op, hit, weight.scale_inputs(affine), bias, like)


def _takes(node: Any, affine: Affine) -> bool:
    """Whether a further reader is a convolution that the same can be folded into."""
    if not node.is_op("Conv", "ConvTranspose"):
        return False
    w, b = node.input(1), node.input(2)
    if not w.is_const or not w.has_one_reader:
        return False
    if affine.shift is None or not affine.shift.any():
        return True
    return is_unpadded(node, ConvWeight(node, w)) and (b is None or b.is_const)
