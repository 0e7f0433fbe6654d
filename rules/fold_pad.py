"""A Pad in front of a convolution or pool, as the operator's own padding."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms

_NEVER_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")


class FoldPadIntoConv(Rule):
    """Let a Conv pad its input with zeros itself.

    Needs known pads of the spatial dims alone, none of them negative.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(Pad(x, [0,0,1,1,0,0,1,1]), w)", "y = Conv(x, w, pads=[1,1,1,1])")

    def pattern(self, op, x: Value, how: Values, w: Value, b: Value | None):
        return op.Conv(op.Pad(x, how).named("pad"), w, b)

    def rewrite(self, op, hit):
        hit.match(_value(hit.pad) == 0)
        return op.Conv(hit.x, hit.w, hit.b, like=hit.root, auto_pad=None, pads=_joined(hit))


class FoldPadIntoAveragePool(Rule):
    """Let an AveragePool pad its input with zeros itself, and count them.

    Needs a pool that does not pad yet, or counts its padding already; from opset 19 on also the
    same padding on both sides, because onnxruntime 1.23 divides by a wrong count otherwise.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = AveragePool(Pad(x, [0,0,1,1,0,0,1,1]))",
        "y = AveragePool(x, pads=[1,1,1,1], count_include_pad=1)",
    )

    def pattern(self, op, x: Value, how: Values):
        return op.AveragePool(op.Pad(x, how).named("pad"))

    def rewrite(self, op, hit):
        hit.match(_value(hit.pad) == 0)
        pads = _pool_pads(hit)
        counted = hit.root.attr("count_include_pad") or not any(hit.root.attr("pads", [0]))
        hit.require(counted, "the pool does not count its own padding but would count the Pad's")
        half = len(pads) // 2
        hit.require(
            hit.opset < 19 or pads[:half] == pads[half:],
            "older onnxruntimes miscount padding that differs between the sides",
        )
        return op.AveragePool(hit.x, like=hit.root, auto_pad=None, pads=pads, count_include_pad=1)


class FoldPadIntoMaxPool(Rule):
    """Let a MaxPool pad its input itself where the Pad's value never wins.

    That is the lowest number there is, or zero beside numbers that are never negative.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = MaxPool(Pad(Relu(x), [0,0,1,1,0,0,1,1]))", "y = MaxPool(Relu(x), pads=[1,1,1,1])"
    )

    def pattern(self, op, x: Value, how: Values):
        return op.MaxPool(op.Pad(x, how).named("pad"))

    def rewrite(self, op, hit):
        value = _value(hit.pad)
        hit.match(value is not None and hit.x.dtype is not None)
        lowest = float(hit.x.dtype.min)
        never_wins = value <= lowest * 0.999 or (value == 0 and _never_negative(hit.x))
        hit.require(never_wins, "the padded number may be the largest one")
        return op.MaxPool(hit.x, like=hit.root, auto_pad=None, pads=_pool_pads(hit))


def _value(pad: Any) -> Any:
    """What a Pad in constant mode fills in, None where that is not known."""
    mode = pad.attr("mode", "constant")
    if mode != "constant":
        return None
    operand = pad.input(2)
    if operand is not None:
        return operand.scalar
    return float(pad.attr("value", 0.0))


def _joined(hit: Any) -> list[int]:
    """The pads of both nodes together."""
    hit.match(hit.root.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID"))
    before, after = forms.pads(hit.pad)
    hit.match(len(before) > 2 and not any((*before[:2], *after[:2])))
    hit.match(all(pad >= 0 for pad in (*before, *after)))
    added = [*before[2:], *after[2:]]
    own: list[int] = hit.root.attr("pads") or [0] * len(added)
    return [mine + new for mine, new in zip(own, added, strict=True)]


def _pool_pads(hit: Any) -> list[int]:
    """The pads of both nodes together, where each window keeps at least one element."""
    pads = _joined(hit)
    steps = hit.root.attr("dilations") or [1]
    hit.match(not hit.root.attr("ceil_mode") and all(step == 1 for step in steps))
    sizes = list(hit.root.attr("kernel_shape"))
    fits = all(pad < size for pad, size in zip(pads, sizes * 2, strict=True))
    hit.require(fits, "the padding is as wide as the pool's window")
    return pads


def _never_negative(x: Any) -> bool:
    node = x.producer
    if node is None or not node.is_op("Clip", *_NEVER_NEGATIVE):
        return False
    if node.op_type != "Clip":
        return True
    low = forms.bounds(node)[0]
    return low is not None and low >= 0
