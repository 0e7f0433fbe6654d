"""Layouts through a Reshape: axes are split and merged where the sizes leave no other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxopt.prune.axes import Tokens
from onnxopt.rewrite.flows import Layout, fixed

Dim = int | str | None
"""A size, a name (equal names are equal sizes), or nothing known."""


@dataclass(slots=True)
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
    count, need = 0, dim
    axes = left[::-1] if last else left
    for axis in axes:
        if need == 1:
            break
        if not isinstance(axis.dim, int) or (axis.dim % need and need % axis.dim):
            return None
        count += 1
        if axis.dim > need:
            _divide(tokens, left, axis, need, last, why)
            need = 1
        else:
            need //= axis.dim
    if need != 1:
        return None
    taken = left[len(left) - count :] if last else left[:count]
    del left[slice(len(left) - count, None) if last else slice(0, count)]
    return tokens.merge([axis.layout for axis in taken])


def _divide(
    tokens: Tokens, left: list[_Axis], axis: _Axis, need: int, last: bool, why: str
) -> None:
    """Put two axes in the place of one; the one at the end in question is of size `need`."""
    assert isinstance(axis.dim, int)
    rest = axis.dim // need
    sizes = (rest, need) if last else (need, rest)
    parts = tokens.split(axis.layout, sizes, why)
    at = left.index(axis)
    left[at : at + 1] = [_Axis(size, part) for size, part in zip(sizes, parts, strict=True)]
