"""A Pad in front of a pool, as the pool's own padding."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms
from onnxopt.rewrite.convolution import joined_pads, padded_with, per_axis

_NEVER_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")


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
        hit.match(padded_with(hit.pad) == 0)
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
        value = padded_with(hit.pad)
        hit.match(value is not None and hit.x.dtype is not None)
        value, lowest = float(value or 0), float(hit.x.dtype.min)
        never_wins = value <= lowest * 0.999 or (value == 0 and _never_negative(hit.x))
        hit.require(never_wins, "the padded number may be the largest one")
        return op.MaxPool(hit.x, like=hit.root, auto_pad=None, pads=_pool_pads(hit))


def _pool_pads(hit: Any) -> list[int]:
    """The pads of both nodes together, where each window keeps at least one element."""
    pads, sizes = joined_pads(hit, hit.root, hit.pad), list(hit.root.attr("kernel_shape"))
    steps = per_axis(hit.root, "dilations", len(sizes))
    hit.match(not hit.root.attr("ceil_mode") and set(steps) == {1})
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
