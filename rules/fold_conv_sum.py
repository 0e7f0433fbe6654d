"""A sum of two convolutions of one tensor, as one convolution."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import Array, folded, require_own, wide_array
from onnxopt.rewrite.convolution import pads_of, per_axis


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
        rank = weight.array.ndim - 2
        steps = ("strides", "dilations")
        hit.match(all(per_axis(large, name, rank) == per_axis(small, name, rank) for name in steps))
        hit.match(large.attr("group") == small.attr("group"))
        hit.match({node.attr("auto_pad", "NOTSET") for node in (large, small)} == {"NOTSET"})
        require_own(hit, weight)
        kernel = wide_array(weight.array) + _laid_on(hit, large, weight.array, small, other.array)
        new = folded(op, hit, kernel, weight)
        biases = [wide_array(each.array) for each in (bias, other_bias) if each is not None]
        if not biases:
            return op.Conv(hit.x, new, like=large)
        total = folded(op, hit, np.sum(biases, axis=0), bias or other_bias)
        return op.Conv(hit.x, new, total, like=large)


def _laid_on(hit: Any, large: Any, kernel: Array, small: Any, other: Array) -> Array:
    """The smaller kernel with zeros around it, as large as the larger one."""
    rank = kernel.ndim - 2
    steps = per_axis(large, "dilations", rank)
    both = zip(pads_of(large, rank), pads_of(small, rank), strict=True)
    more = [mine - theirs for mine, theirs in both]
    hit.match(all(extra % step == 0 for extra, step in zip(more, steps * 2, strict=True)))
    margins = [extra // step for extra, step in zip(more, steps * 2, strict=True)]
    around = [(0, 0), (0, 0), *zip(margins[:rank], margins[rank:], strict=True)]
    hit.match(all(before >= 0 and after >= 0 for before, after in around))
    sizes = [
        size + before + after for size, (before, after) in zip(other.shape, around, strict=True)
    ]
    hit.match(tuple(sizes) == kernel.shape)
    return np.pad(wide_array(other), around)
