"""Slices of Slices."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms
from onnxopt.rewrite.forms import END, Part


class FoldSliceChain(Rule):
    """One Slice for two in a row, of different axes or of the same.

    Needs: constant bounds; on the same axis also a known size, or steps of one and bounds that say
    the same for every size.
    """

    exactness = Exactness.EXACT
    example = Example(
        "y = Slice(Slice(x, [1], [9], axes=[2]), [0], [4], axes=[3])",
        "y = Slice(x, [1, 0], [9, 4], axes=[2, 3])",
    )

    def pattern(self, op, x: Value, first: Values, second: Values):
        return op.Slice(op.Slice(x, first).named("inner"), second).named("outer")

    def rewrite(self, op, hit):
        parts: dict[int, Any] = {part.axis: part for part in forms.parts(hit.inner)}
        for part in forms.parts(hit.outer):
            first = parts.get(part.axis)
            joined = part if first is None else _joined(first, part, hit.x.dim(part.axis))
            hit.require(joined, "the bounds depend on a size known at run time only")
            parts[part.axis] = joined
        return forms.slice_by(op, hit.x, list(parts.values()), like=hit.outer)


def _joined(first: Part, second: Part, size: int | None) -> Part | None:
    """What both take along one axis of `size` elements, None where that can't be said."""
    if size is not None:
        taken = range(size)[slice(first.start, first.end, first.step)]
        taken = taken[slice(second.start, second.end, second.step)]
        if not taken:
            return Part(first.axis, 0, 0)
        stop = -END if taken.stop < 0 else taken.stop
        return Part(first.axis, taken.start, stop, taken.step)
    if first.step != 1 or second.step < 1 or first.start < 0 or second.start < 0:
        return None
    end = _joined_end(first, second)
    return None if end is None else Part(first.axis, first.start + second.start, end, second.step)


def _joined_end(first: Part, second: Part) -> int | None:
    if second.end >= END:
        return first.end
    if first.end >= END:
        return second.end if second.end < 0 else first.start + second.end
    if first.end >= 0 and second.end >= 0:
        return min(first.end, first.start + second.end)
    return first.end + second.end if first.end < 0 and second.end < 0 else None
