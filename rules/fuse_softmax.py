"""Softmax and LogSoftmax from exponentials and sums."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


def _axis(hit, node) -> int:
    """The one axis of a reduction, counted from the front."""
    axes = node.axes()
    hit.match(hit.x.rank and axes is not None and len(axes) == 1)
    return axes[0] % hit.x.rank


class FuseSoftmax(Rule):
    """One Softmax for exp(x − max(x)) / sum(exp(x − max(x))) along the last axis.

    Along another axis onnxruntime's CPU kernel transposes there and back: measured, it took 1 to 8
    times as long as the five pieces.
    Source: ONNX operator Softmax; TensorFlow exporters write it out.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "e = Exp(Sub(x, ReduceMax(x)))  y = Div(e, ReduceSum(e))", "y = Softmax(x, axis=-1)"
    )

    def pattern(self, op, x: Value, a: Const | None, b: Const | None):
        top = op.ReduceMax(x, a, keepdims=1).named("top")
        power = op.Exp(op.Sub(x, top))
        return op.Div(power, op.ReduceSum(power, b, keepdims=1).named("sum"))

    def rewrite(self, op, hit):
        axis = _axis(hit, hit.top)
        hit.match(axis == _axis(hit, hit.sum))
        hit.require(axis == hit.x.rank - 1, "along an inner axis a Softmax is slower")
        # Before opset 13 a negative axis was not allowed everywhere.
        return op.Softmax(hit.x, axis=-1 if op.opset >= 13 else axis)


class FuseLogSoftmax(Rule):
    """One LogSoftmax for Log(Softmax(x)): faster, and finite where the Softmax underflows.

    Source: ONNX operator LogSoftmax.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Log(Softmax(x))", "y = LogSoftmax(x)")

    def pattern(self, op, x: Value):
        return op.Log(op.Softmax(x).named("softmax"))

    def rewrite(self, op, hit):
        written = {"axis": hit.softmax.attr("axis")} if hit.softmax.has("axis") else {}
        return op.LogSoftmax(hit.x, **written)
