"""A Pad in front of a convolution, as the convolution's own padding."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values
from onnxopt.rewrite.convolution import joined_pads, padded_with


class FoldPadIntoConv(Rule):
    """Let a Conv pad its input with zeros itself.

    Needs known pads of the spatial dims alone, none of them negative.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(Pad(x, [0,0,1,1,0,0,1,1]), w)", "y = Conv(x, w, pads=[1,1,1,1])")

    def pattern(self, op, x: Value, how: Values, w: Value, b: Value | None):
        return op.Conv(op.Pad(x, how).named("pad"), w, b)

    def rewrite(self, op, hit):
        hit.match(padded_with(hit.pad) == 0)
        pads = joined_pads(hit, hit.root, hit.pad)
        return op.Conv(hit.x, hit.w, hit.b, like=hit.root, auto_pad=None, pads=pads)
