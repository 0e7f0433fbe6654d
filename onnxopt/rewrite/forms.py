"""Operators whose parameters moved from attributes to inputs, read and written in every opset.

The readers raise Unmatched where a parameter is computed at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.hit import NodeView, Operand, Unmatched

END = 2**31 - 1
"""Slice ends from here on mean the end of the dim, however long it is."""

_AXES_INPUT_SINCE = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}
_LOWEST = float(np.finfo(np.float32).min)
_HIGHEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Part:
    """What a Slice takes along one axis; `start` and `end` as written, negative from the end."""

    axis: int
    start: int
    end: int
    step: int = 1


def with_axes(
    op: RewriteBuilder, op_type: str, x: Any, axes: Iterable[int], **keywords: Any
) -> Any:
    """A Squeeze, Unsqueeze or Reduce* over `axes`, as the model's opset writes it."""
    numbers = [int(axis) for axis in axes]
    if op.opset >= _AXES_INPUT_SINCE.get(op_type, 18):
        return op.node(op_type, [x, op.ints(numbers)], **keywords)
    return op.node(op_type, [x], **{**keywords, "axes": numbers})


def normal_axes(axes: Iterable[int], rank: int | None) -> list[int]:
    """The axes counted from the front, sorted. Raises Unmatched without a rank."""
    numbers = list(axes)
    if rank is None and any(axis < 0 for axis in numbers):
        raise Unmatched("negative axes of an unknown rank")
    return sorted({axis + (rank or 0) if axis < 0 else axis for axis in numbers})


def parts(node: NodeView) -> list[Part]:
    """What a Slice takes, axis by axis in its own order; axes count from the front."""
    if node.has("starts"):
        starts, ends, axes = node.attr("starts"), node.attr("ends"), node.attr("axes")
        steps = None
    else:
        starts, ends = _ints(node, 1), _ints(node, 2)
        axes, steps = _ints(node, 3), _ints(node, 4)
    if starts is None or ends is None:
        raise Unmatched("a Slice without bounds")
    numbers = range(len(starts)) if axes is None else axes
    places = [normal_axes([axis], _rank(node))[0] for axis in numbers]
    return [
        Part(*map(int, each))
        for each in zip(places, starts, ends, steps or [1] * len(starts), strict=True)
    ]


def slice_by(op: RewriteBuilder, x: Any, wanted: Sequence[Part], **keywords: Any) -> Any:
    """A Slice that takes `wanted`, each axis at most once."""
    starts, ends = [part.start for part in wanted], [part.end for part in wanted]
    axes, steps = [part.axis for part in wanted], [part.step for part in wanted]
    if op.opset < 10:
        if any(step != 1 for step in steps):
            raise Unmatched("a Slice with steps before opset 10")
        return op.Slice(x, starts=starts, ends=ends, axes=axes, **keywords)
    stepped = [op.ints(steps)] if any(step != 1 for step in steps) else []
    return op.Slice(x, op.ints(starts), op.ints(ends), op.ints(axes), *stepped, **keywords)


def pads(node: NodeView) -> tuple[list[int], list[int]]:
    """How much a Pad adds before and after each axis, for all axes."""
    written = node.attr("pads") if node.has("pads") else _ints(node, 1)
    if written is None:
        raise Unmatched("a Pad without pads")
    half = len(written) // 2
    axes = _ints(node, 3)
    if axes is None:
        return [int(pad) for pad in written[:half]], [int(pad) for pad in written[half:]]
    rank = _rank(node)
    if rank is None:
        raise Unmatched("a Pad of some axes of an unknown rank")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = int(written[index]), int(written[half + index])
    return before, after


def pad_by(
    op: RewriteBuilder,
    x: Any,
    before: Sequence[int],
    after: Sequence[int],
    *,
    like: NodeView,
) -> Any:
    """A Pad of all axes with the mode and the value of `like`."""
    numbers = [*before, *after]
    if op.opset < 11:
        return op.Pad(x, pads=numbers, like=like)
    return op.Pad(x, op.ints(numbers), like.input(2), like=like)


def bounds(node: NodeView) -> tuple[float | int | None, float | int | None]:
    """The bounds of a Clip, None where it has none."""
    if node.opset < 11:
        low, high = float(node.attr("min")), float(node.attr("max"))
        return (None if low <= _LOWEST else low), (None if high >= _HIGHEST else high)
    return _number(node.input(1)), _number(node.input(2))


def clip_by(
    op: RewriteBuilder,
    x: Operand,
    low: float | int | None,
    high: float | int | None,
    **keywords: Any,
) -> Any:
    """A Clip of `x` between `low` and `high` (None: no bound)."""
    if op.opset < 11:
        return op.Clip(x, **{**keywords, "min": low, "max": high})
    limits = [None if limit is None else op.const(limit, dtype=x.dtype) for limit in (low, high)]
    return op.Clip(x, *limits, **keywords)


def _number(operand: Operand | None) -> float | int | None:
    if operand is None:
        return None
    if operand.size != 1 or operand.dtype is None:
        raise Unmatched("a bound with other than one element")
    array = operand.array.reshape(())
    return int(array) if operand.dtype.is_integer() else float(array)


def _ints(node: NodeView, index: int) -> list[int] | None:
    operand = node.input(index)
    if operand is None:
        return None
    numbers = operand.ints
    if numbers is None:
        raise Unmatched("computed at run time")
    return numbers


def _rank(node: NodeView) -> int | None:
    operand = node.input(0)
    return None if operand is None else operand.rank
