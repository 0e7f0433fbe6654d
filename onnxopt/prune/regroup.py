"""Layouts through a Reshape: axes are split and merged where the sizes leave no other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxopt.prune.axes import Tokens
from onnxopt.rewrite.flows import Layout, fixed

Dim = int | str | None
"""A size, a name (equal names are equal sizes), or nothing known."""


@dataclass(slots=True, eq=False)
class _Axis:
    dim: Dim
    layout: Layout


def regroup(
    tokens: Tokens, old: Sequence[tuple[Dim, Layout]], new: Sequence[Dim], why: str
) -> list[Layout]:
    """The layouts of a tensor with dims `new` that holds the elements of one with axes `old`.

    Both ends are matched as far as sizes are known; in between the channels are kept for `why`.
    """
    left = [_Axis(dim, layout) for dim, layout in old if dim != 1]
    wanted = [index for index, dim in enumerate(new) if dim != 1]
    found: dict[int, Layout] = {i: fixed(1, "") for i, dim in enumerate(new) if dim == 1}
    for last in (False, True):
        while wanted:
            index = wanted[-1 if last else 0]
            if len(wanted) == 1 and left:
                # The rest can only go there.
                found[index] = tokens.merge([axis.layout for axis in left])
                left.clear()
                wanted.clear()
                break
            layout = _taken(tokens, left, new[index], last, why)
            if layout is None:
                break
            found[index] = layout
            wanted.remove(index)
    for axis in left:
        tokens.freeze(axis.layout, why)
    dims = ((index, new[index]) for index in wanted)
    rest = {index: fixed(dim if isinstance(dim, int) else None, why) for index, dim in dims}
    return [found[index] if index in found else rest[index] for index in range(len(new))]


def _taken(tokens: Tokens, left: list[_Axis], dim: Dim, last: bool, why: str) -> Layout | None:
    """The layout of the next axis, and `left` without what it took; None where that is open."""
    end = -1 if last else 0
    if left and dim is not None and left[end].dim == dim:
        return left.pop(end).layout
    if not isinstance(dim, int) or dim < 2:
        return None
    taken: list[_Axis] = []
    need = dim
    for axis in left[::-1] if last else left[:]:
        if need == 1:
            break
        if isinstance(axis.dim, int) and axis.dim % need and need % axis.dim:
            return None
        if not isinstance(axis.dim, int) or axis.dim > need:
            axis = _divided(tokens, left, axis, need, last, why)
        taken.append(axis)
        need //= axis.dim if isinstance(axis.dim, int) else 1
    if need != 1:
        return None
    for axis in taken:
        left.remove(axis)
    return tokens.merge([axis.layout for axis in (taken[::-1] if last else taken)])


def _divided(
    tokens: Tokens, left: list[_Axis], axis: _Axis, need: int, last: bool, why: str
) -> _Axis:
    """Put two axes in the place of one: that of size `need` at the end in question is given."""
    rest = axis.dim // need if isinstance(axis.dim, int) else None
    sizes = (rest, need) if last else (need, rest)
    if rest is None:
        parts = [fixed(size, why) for size in sizes]
    else:
        parts = tokens.split(axis.layout, [size or 0 for size in sizes], why)
    made = [_Axis(size, part) for size, part in zip(sizes, parts, strict=True)]
    at = left.index(axis)
    left[at : at + 1] = made
    return made[1 if last else 0]
