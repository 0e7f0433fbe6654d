"""Clip from a Max and a Min."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseClip(Rule):
    """One Clip for Min(Max(x, low), high), in either order.

    The bounds must be single numbers, the lower one not above the upper. NaN may come out
    differently: Max and Min keep it, and what Clip does is up to the runtime.
    Source: ONNX operator Clip-12; TensorFlow's relu6.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Min(Max(x, 0), 6)", "y = Clip(x, 0, 6)")
    opsets = (12, None)

    def pattern(self, op, x: Value, low: Const, high: Const):
        return op.either(
            op.Min(op.Max(x, low), high),
            op.Max(op.Min(x, high), low),
            op.Min(op.Relu(x).named("relu"), high),
            op.Relu(op.Min(x, high)).named("relu"),
        )

    def rewrite(self, op, hit):
        low = 0.0 if hit.low is None else hit.low.scalar
        high = hit.high.scalar
        hit.match(low is not None and high is not None and hit.root.output.same_shape(hit.x))
        hit.require(low <= high, "the lower bound is above the upper one")
        return op.Clip(
            hit.x,
            op.const(low if hit.low is None else hit.low.array.reshape(()), dtype=hit.x.dtype),
            op.const(hit.high.array.reshape(()), like=hit.high),
        )
