"""What shapes with symbols prove: broadcasting, and reshapes that a constant can say.

A dim is an int, a symbol as text (equal text means equal size) or None where nothing is known. Any
symbol may turn out to be 0 or 1 when the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.rewrite.hit import Operand

Dim = int | str | None
Dims = tuple[Dim, ...]


def same(left: Dim, right: Dim) -> bool:
    """Whether two dims are provably equal."""
    return left is not None and left == right


def aligned(dims: Dims, rank: int) -> Dims:
    """The dims with ones in front up to `rank`, as broadcasting sees them."""
    return (1,) * (rank - len(dims)) + dims


def broadcast(*shapes: Dims | None) -> Dims | None:
    """The shape of an elementwise result; None without a rank, a None dim where a dim is open."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or not known:
        return None
    rank = max(len(shape) for shape in known)
    return tuple(map(_joined, zip(*(aligned(shape, rank) for shape in known), strict=True)))


def _joined(dims: Sequence[Dim]) -> Dim:
    others = {dim for dim in dims if dim != 1}
    numbers = [dim for dim in others if isinstance(dim, int)]
    if numbers:
        return numbers[0]
    if not others:
        return 1
    return others.pop() if len(others) == 1 else None


def stretches_to(small: Operand, large: Operand) -> bool:
    """Whether broadcasting the two against each other provably gives the shape of `large`."""
    if small.shape == ():
        return True
    if small.shape is None or large.shape is None or len(small.shape) > len(large.shape):
        return False
    pairs = zip(aligned(small.shape, len(large.shape)), large.shape, strict=True)
    return all(
        mine == 1 or same(mine, theirs) or (isinstance(theirs, int) and theirs != 1)
        for mine, theirs in pairs
    )


def same_reshaped(source: Operand, result: Operand) -> bool:
    """Whether two shapes of equally many elements are provably equal.

    One dim may be unknown: where all others are equal, so is it.
    """
    mine, theirs = source.shape, result.shape
    if mine is None or theirs is None or len(mine) != len(theirs):
        return False
    different = [pair for pair in zip(mine, theirs, strict=True) if not same(*pair)]
    return not different or (len(different) == 1 and None in different[0])


def reshape_target(
    source: Dims | None, wanted: Dims | None, inferred: int | None = None
) -> list[int] | None:
    """The constant second input of a Reshape from `source` to `wanted`, or None if there is none.

    A symbol that stands at the same place in both is copied (0); one other dim may be left to the
    operator (-1). Beside a copied one that is so only where the graph leaves the dim at `inferred`
    open already: if the copied dim is zero, -1 has no answer.
    """
    if source is None or wanted is None or 0 in wanted:
        return None
    target = [_entry(source, index, dim) for index, dim in enumerate(wanted)]
    if target.count(-1) > 1:
        return None
    if -1 in target and 0 in target and target.index(-1) != inferred:
        return None
    return target


def _entry(source: Dims, index: int, dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if index < len(source) and same(source[index], dim) else -1


def squeezed_axes(larger: Dims | None, smaller: Dims | None) -> list[int] | None:
    """The axes of size one that `larger` has more than `smaller`, or None where that is not all."""
    if larger is None or smaller is None or None in smaller:
        return None
    axes: list[int] = []
    for axis, dim in enumerate(larger):
        position = axis - len(axes)
        if position < len(smaller) and smaller[position] == dim:
            continue
        if dim != 1:
            return None
        axes.append(axis)
    return axes if len(larger) - len(axes) == len(smaller) else None


def keeps_order(perm: Sequence[int], shape: Dims | None) -> bool:
    """Whether a transposition by `perm` moves nothing but axes of size one."""
    if shape is None:
        return list(perm) == sorted(perm)
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def supplied(dims: Dims, others: Sequence[Operand]) -> bool:
    """Whether each of `dims` (laid out from the last axis) that is not one is a dim of an other."""
    known = [other.shape[::-1] for other in others if other.shape is not None]
    return all(
        dim == 1 or any(axis < len(shape) and same(dim, shape[axis]) for shape in known)
        for axis, dim in enumerate(dims[::-1])
    )


def reaches_rank(rank: int, others: Sequence[Operand]) -> bool:
    """Whether one of `others` has that many axes at least."""
    return any(other.rank is not None and other.rank >= rank for other in others)
