"""What follows a convolution, folded into its weight and bias."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import folded, is_dequantized, of_batch_norm, of_elementwise
from onnxopt.rewrite.convolution import ConvWeight, rebuilt


class FoldBatchNormIntoConv(Rule):
    """Scale the weight of a Conv or ConvTranspose by the normalization's gain; the rest is bias.

    Source: Jacob et al., Quantization and Training of Neural Networks, 2018, section 3.2.
    """

    exactness = Exactness.CLOSE
    example = Example("y = BatchNormalization(Conv(x, w), s, t, m, v)", "y = Conv(x, w2, b2)")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        conv = op.one_of("Conv", "ConvTranspose")(x, w, b).named("conv")
        return op.BatchNormalization(conv, s, t, m, v)

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        affine = of_batch_norm(hit, hit.root, weight.outputs)
        bias = affine.after(hit.b and hit.b.array)
        return rebuilt(op, hit, weight.scale_outputs(affine), bias, hit.t)


class FoldConstantIntoConv(Rule):
    """Take a constant Add, Sub, Mul or Div after a Conv or ConvTranspose into its weight and bias.

    The constant must be one number, or one for each output channel. A sum needs no constant
    weight where the convolution has no bias yet.
    """

    exactness = Exactness.CLOSE
    example = Example("c = Conv(x, w)  y = Add(Mul(c, s), t)", "y = Conv(x, w2, b2)")

    def pattern(self, op, x: Value, w: Value, b: Const | None, c: Const):
        conv = op.one_of("Conv", "ConvTranspose")(x, w, b).named("conv")
        return op.either(op.one_of("Add", "Sub", "Mul", "Div")(conv, c), op.Sub(c, conv))

    def rewrite(self, op, hit):
        if not hit.w.is_const:
            return self._as_bias(op, hit)
        weight = ConvWeight(hit.conv, hit.w)
        affine = of_elementwise(hit, hit.root, hit.c, weight.rank, 1, weight.outputs)
        bias = affine.after(hit.b and hit.b.array)
        if affine.gain is None:
            return _with_bias(op, hit, bias)
        return rebuilt(op, hit, weight.scale_outputs(affine), bias, hit.c)

    def _as_bias(self, op: Any, hit: Any) -> Any:
        hit.match(hit.root.op_type in ("Add", "Sub") and hit.root.input(0) != hit.c)
        hit.match(not is_dequantized(hit.x, hit.w))
        channels = hit.w.dim(0) if hit.conv.op_type == "Conv" else hit.root.output.dim(1)
        hit.match(channels is not None and hit.w.rank is not None)
        affine = of_elementwise(hit, hit.root, hit.c, hit.w.rank, 1, channels)
        return _with_bias(op, hit, affine.after(hit.b and hit.b.array))


def _with_bias(op: Any, hit: Any, bias: Any) -> Any:
    """The same convolution with another bias; the weight stays the tensor it is."""
    new = folded(op, hit, bias, hit.b or hit.c)
    return op.node(hit.conv.op_type, [hit.x, hit.w, new], like=hit.conv)
