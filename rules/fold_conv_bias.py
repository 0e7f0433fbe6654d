"""Biases that an exporter computes at run time."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FoldConvBias(Rule):
    """Make the bias of a Conv a constant where an Expand of a constant gives it.

    torch's dynamo exporter spells a Conv without bias so; what follows can only be folded into the
    weights once the bias is constant.
    """

    exactness = Exactness.EXACT
    example = Example("y = Conv(x, w, Expand(0, [64]))", "y = Conv(x, w, b)")
    opsets = (8, None)

    def pattern(self, op, x: Value, w: Value, c: Const, sizes: Const):
        filled = op.Expand(c, sizes).shared()
        return op.one_of("Conv", "ConvTranspose")(x, w, filled).named("conv")

    def rewrite(self, op, hit):
        sizes = hit.sizes.ints
        hit.match(sizes is not None and len(sizes) == 1)
        bias = np.broadcast_to(hit.c.array, np.broadcast_shapes(hit.c.array.shape, sizes))
        return op.node(hit.conv.op_type, [hit.x, hit.w, op.const(bias, like=hit.c)], like=hit.conv)
