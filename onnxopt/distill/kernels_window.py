"""Kernels that slide a window: convolutions and pools of any rank, with every form of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from onnxopt.distill.kernels import Call, Tensor, kernel

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TURNED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class _Window:
    """Sizes of a window on an input of a known size, with the padding that the node asks for."""

    def __init__(self, call: Call, sizes: Sequence[int], kernel_sizes: Sequence[int]) -> None:
        rank = len(sizes)
        self.kernel = list(kernel_sizes)
        self.strides = list(call.attr("strides") or [1] * rank)
        self.dilations = list(call.attr("dilations") or [1] * rank)
        self.reach = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        pads = list(call.attr("pads") or [0] * (2 * rank))
        self.before, self.after = pads[:rank], pads[rank:]
        mode = call.text("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            self._same(sizes, lower=mode == "SAME_LOWER")

    def _same(self, sizes: Sequence[int], *, lower: bool) -> None:
        for axis, (size, stride) in enumerate(zip(sizes, self.strides, strict=True)):
            count = -(-size // stride)
            total = max(0, (count - 1) * stride + self.reach[axis] - size)
            small, large = total // 2, total - total // 2
            self.before[axis], self.after[axis] = (large, small) if lower else (small, large)

    @property
    def symmetric(self) -> bool:
        """Whether torch can pad by itself."""
        return self.before == self.after

    @property
    def flat(self) -> list[int]:
        """The padding as torch's `pad` takes it: the last axis first."""
        return _flat(self.before, self.after)

    def beyond(self, sizes: Sequence[int]) -> list[int]:
        """What a ceiling of the output size adds behind the padding, an axis each."""
        added = []
        for axis, size in enumerate(sizes):
            padded = size + self.before[axis] + self.after[axis]
            steps = math.ceil((padded - self.reach[axis]) / self.strides[axis])
            # A window that would start in the padding behind is left out.
            if steps * self.strides[axis] >= size + self.before[axis]:
                steps -= 1
            added.append(max(0, steps * self.strides[axis] + self.reach[axis] - padded))
        return added


def _flat(before: Sequence[int], after: Sequence[int]) -> list[int]:
    pairs = zip(reversed(before), reversed(after), strict=True)
    return [amount for pair in pairs for amount in pair]


@kernel("Conv")
def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = _Window(call, x.shape[2:], weight.shape[2:])
    padding: Any = window.before
    if not window.symmetric:
        x, padding = functional.pad(x, window.flat), 0
    return _CONV[x.dim() - 2](
        x, weight, bias, window.strides, padding, window.dilations, call.attr("group", 1)
    )


@kernel("ConvTranspose")
def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = _Window(call, x.shape[2:], weight.shape[2:])
    rank = x.dim() - 2
    extra = list(call.attr("output_padding") or [0] * rank)
    mode = call.text("auto_pad", "NOTSET")
    sizes = list(call.attr("output_shape") or [])
    if not sizes and mode.startswith("SAME"):
        sizes = [n * s for n, s in zip(x.shape[2:], window.strides, strict=True)]
    whole = _TURNED[rank](
        x, weight, bias, window.strides, 0, extra, call.attr("group", 1), window.dilations
    )
    for axis in range(rank):
        before, after = window.before[axis], window.after[axis]
        if sizes:
            # What is too much is cut off, and a negative cut is room that is left.
            total = whole.shape[2 + axis] - sizes[axis]
            large = total - total // 2
            before, after = (large, total // 2) if mode == "SAME_LOWER" else (total // 2, large)
        whole = whole.narrow(2 + axis, before, whole.shape[2 + axis] - before - after)
    return whole


@kernel("MaxPool")
def _max_pool(call: Call, x: Tensor) -> Tensor:
    if call.outputs > 1:
        raise call.refuse("the places of its maxima are asked for")
    sizes = x.shape[2:]
    window = _Window(call, sizes, call.attr("kernel_shape"))
    after = list(window.after)
    if call.attr("ceil_mode", 0):
        after = [a + more for a, more in zip(after, window.beyond(sizes), strict=True)]
    if any(window.before) or any(after):
        x = functional.pad(x, _flat(window.before, after), value=-math.inf)
    return _MAX[len(sizes)](x, window.kernel, window.strides, 0, window.dilations)


@kernel("AveragePool")
def _average_pool(call: Call, x: Tensor) -> Tensor:
    sizes = x.shape[2:]
    window = _Window(call, sizes, call.attr("kernel_shape"))
    if any(step != 1 for step in window.dilations):
        raise call.refuse("its window has holes")
    beyond = window.beyond(sizes) if call.attr("ceil_mode", 0) else [0] * len(sizes)
    pool = _AVERAGE[len(sizes)]
    if not any((*window.before, *window.after, *beyond)):
        return pool(x, window.kernel, window.strides)
    counted = torch.ones((1, 1, *sizes), dtype=x.dtype, device=x.device)
    counted = functional.pad(counted, window.flat, value=float(call.attr("count_include_pad", 0)))
    more = _flat([0] * len(sizes), beyond)
    padded = functional.pad(functional.pad(x, window.flat), more)
    share = pool(functional.pad(counted, more), window.kernel, window.strides)
    return pool(padded, window.kernel, window.strides) / share


@kernel("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call, x: Tensor) -> Tensor:
    axes = list(range(2, x.dim()))
    compute = torch.mean if call.op_type == "GlobalAveragePool" else torch.amax
    return compute(x, axes, keepdim=True)
