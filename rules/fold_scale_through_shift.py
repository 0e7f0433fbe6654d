"""A factor and a shift before a convolution, of which the factor goes into the weight."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import ends_fusion, folded, of_elementwise, wide_array
from onnxopt.rewrite.convolution import ConvWeight, keeps_shape, rebuilt


class FoldScaleThroughShift(Rule):
    """Take a constant factor before a constant sum into the convolution that reads the sum.

    The convolution may pad: (x · s + t) is (x + t / s) · s, and the factor behind the sum commutes
    with padding by zeros. Source: the learnable affine blocks of PP-LCNet and PP-HGNet.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(Add(Mul(x, s), t), w)", "y = Conv(Add(x, t2), w2)")

    def pattern(self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const):
        scaled = op.one_of("Mul", "Div")(x, s).named("scale")
        shifted = op.one_of("Add", "Sub")(scaled, t).named("shift")
        return op.one_of("Conv", "ConvTranspose")(shifted, w, b).named("conv")

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        gain = of_elementwise(hit, hit.scale, hit.s, weight.rank, 1, weight.inputs)
        hit.match(keeps_shape(hit.x, hit.s, weight) and keeps_shape(hit.x, hit.t, weight))
        factor, shift = wide_array(hit.s.array), wide_array(hit.t.array)
        hit.match(factor.all() and not ends_fusion(hit.x))
        shift = shift * factor if hit.scale.op_type == "Div" else shift / factor
        moved = op.node(hit.shift.op_type, [hit.x, folded(op, hit, shift, hit.t)], like=hit.shift)
        return rebuilt(op, hit, weight.scale_inputs(gain), hit.b and hit.b.array, hit.t, moved)
