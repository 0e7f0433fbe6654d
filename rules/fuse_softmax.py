"""Softmax and LogSoftmax from exponentials and sums."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


def _axis(op, hit, *nodes):
    """The one axis all reductions share, if Softmax can take it at this opset."""
    hit.match(hit.x.rank)
    found = set()
    for node in nodes:
        axes = node.axes()
        hit.match(axes is not None and len(axes) == 1)
        found.add(axes[0] % hit.x.rank)
    hit.match(len(found) == 1)
    axis = found.pop()
    last = axis == hit.x.rank - 1
    hit.require(last or op.opset >= 13, "before opset 13 Softmax flattens all axes after its own")
    return -1 if last and op.opset >= 13 else axis


class FuseSoftmax(Rule):
    """One Softmax for exp(x − max(x)) / sum(exp(x − max(x))).

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
        return op.Softmax(hit.x, axis=_axis(op, hit, hit.top, hit.sum))


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
