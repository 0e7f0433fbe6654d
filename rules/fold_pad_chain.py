"""Pads of Pads."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms


class FoldPadChain(Rule):
    """One Pad for two in a row that fill with the same number, or that repeat the edge.

    Needs: pads known and none negative, for what the first cuts off the second can't bring back.
    Source: ONNX operator Pad-2 to Pad-25.
    """

    exactness = Exactness.EXACT
    example = Example("y = Pad(Pad(x, [0, 1, 0, 0]), [0, 0, 0, 2])", "y = Pad(x, [0, 1, 0, 2])")

    def pattern(self, op, x: Value, first: Values, second: Values):
        inner = op.Pad(x, first).named("inner")
        return op.Pad(inner, second).named("outer")

    def rewrite(self, op, hit):
        mode = hit.outer.attr("mode")
        hit.match(mode == hit.inner.attr("mode") and mode in ("constant", "edge"))
        hit.match(mode == "edge" or _fill(hit, hit.inner) == _fill(hit, hit.outer))
        pairs = list(zip(forms.pads(hit.inner), forms.pads(hit.outer), strict=True))
        before, after = ([a + b for a, b in zip(*pair, strict=True)] for pair in pairs)
        hit.match(min(size for pair in pairs for side in pair for size in side) >= 0)
        return forms.pad_by(op, hit.x, before, after, like=hit.outer)


def _fill(hit, node):
    if node.opset < 11:
        return node.attr("value")
    value = node.input(2)
    if value is None:
        return 0.0
    hit.match(value.scalar is not None)
    return value.scalar
