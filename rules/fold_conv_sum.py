"""A sum of two convolutions of one tensor, as one convolution."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import (
    Affine,
    Array,
    folded,
    of_batch_norm,
    require_own,
    wide_array,
)
from onnxopt.rewrite.convolution import ConvWeight, rebuilt


class FoldConvSum(Rule):
    """Add two kernels once and for all, the smaller one in the middle of the larger.

    Both must have the same strides, dilations and groups, and pads that lay them on one another.
    Source: Ding et al., RepVGG, 2021, section 3.3.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Add(Conv(x, w, pads=[1, 1]), Conv(x, u))", "y = Conv(x, w2, pads=[1, 1])"
    )

    def pattern(self, op, x: Value, w: Const, b: Const | None, u: Const, c: Const | None):
        return op.Add(op.Conv(x, w, b).named("first"), op.Conv(x, u, c).named("second"))

    def rewrite(self, op, hit):
        sides = [(hit.first, hit.w, hit.b), (hit.second, hit.u, hit.c)]
        sides.sort(key=lambda side: -side[1].size)
        (large, weight, bias), (small, other, other_bias) = sides
        hit.match(weight.array.shape[:2] == other.array.shape[:2])
        same = ("strides", "dilations", "group", "auto_pad")
        rank = weight.array.ndim - 2
        hit.match(all(_written(large, name, rank) == _written(small, name, rank) for name in same))
        hit.match(large.attr("auto_pad", "NOTSET") == "NOTSET")
        require_own(hit, weight)
        kernel = wide_array(weight.array) + _laid_on(hit, large, weight.array, small, other.array)
        new = folded(op, hit, kernel, weight)
        biases = [wide_array(each.array) for each in (bias, other_bias) if each is not None]
        if not biases:
            return op.Conv(hit.x, new, like=large)
        total = folded(op, hit, np.sum(biases, axis=0), bias or other_bias)
        return op.Conv(hit.x, new, total, like=large)


class FoldSkipIntoConv(Rule):
    """Let a convolution add its own input, as it is or through a BatchNormalization.

    Needs as many channels out as in, a stride of one, and pads that keep the size. The input
    becomes a one in the kernel's middle. Source: Ding et al., RepVGG, 2021, section 3.3.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(Conv(x, w, pads=[1, 1]), x)", "y = Conv(x, w2, pads=[1, 1])")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        conv = op.Conv(x, w, b).named("conv")
        norm = op.BatchNormalization(x, s, t, m, v).named("norm")
        return op.either(op.Add(conv, norm), op.Add(conv, x))

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        hit.match(weight.inputs == weight.outputs and hit.conv.output.same_shape(hit.x))
        middle = _middle(hit)
        affine = Affine()
        if hit.norm is not None:
            affine = of_batch_norm(hit, hit.norm, weight.inputs)
        shift = affine.of(np.zeros(weight.inputs))
        kernel = wide_array(hit.w.array)
        for channel, gain in enumerate(affine.of(np.ones(weight.inputs)) - shift):
            place = (channel, channel % kernel.shape[1], *middle)
            kernel[place] += gain
        bias = shift if hit.b is None else hit.b.array + shift
        needed = hit.b is not None or bias.any()
        return rebuilt(op, hit, kernel, bias if needed else None, hit.t or hit.w)


def _middle(hit: Any) -> list[int]:
    """Where in the kernel the element stands that is computed."""
    rank = hit.w.array.ndim - 2
    steps, strides = _written(hit.conv, "dilations", rank), _written(hit.conv, "strides", rank)
    pads = hit.conv.attr("pads") or [0] * 2 * rank
    hit.match(all(stride == 1 for stride in strides))
    hit.match(hit.conv.attr("auto_pad", "NOTSET") == "NOTSET")
    hit.match(all(pad % step == 0 for pad, step in zip(pads, steps * 2, strict=True)))
    return [pad // step for pad, step in zip(pads[:rank], steps, strict=True)]


def _written(conv: Any, name: str, rank: int) -> Any:
    """An attribute, ones for each axis where it is left out."""
    default = [1] * rank if name in ("strides", "dilations") else None
    value = conv.attr(name, default)
    return list(value) if isinstance(value, list | tuple) else value


def _laid_on(hit: Any, large: Any, kernel: Array, small: Any, other: Array) -> Array:
    """The smaller kernel with zeros around it, as large as the larger one."""
    rank = kernel.ndim - 2
    pads = [large.attr("pads") or [0] * 2 * rank, small.attr("pads") or [0] * 2 * rank]
    steps = _written(large, "dilations", rank)
    more = [mine - theirs for mine, theirs in zip(*pads, strict=True)]
    hit.match(all(extra % step == 0 for extra, step in zip(more, steps * 2, strict=True)))
    margins = [extra // step for extra, step in zip(more, steps * 2, strict=True)]
    around = [(0, 0), (0, 0), *zip(margins[:rank], margins[rank:], strict=True)]
    hit.match(all(before >= 0 and after >= 0 for before, after in around))
    sizes = [
        size + before + after for size, (before, after) in zip(other.shape, around, strict=True)
    ]
    hit.match(tuple(sizes) == kernel.shape)
    return np.pad(wide_array(other), around)
