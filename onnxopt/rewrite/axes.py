"""Permutations of axes: how they compose, and what is left where axes come and go.

A layout is a permutation `p`: the tensor v of the model is Transpose(v', perm=p) of the tensor v'
that is there instead, so that axis i of v is axis p[i] of v'.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from onnxopt.rewrite.hit import NodeView

Perm = tuple[int, ...]


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(axis) for axis in np.argsort(perm))


def composed(layout: Perm, perm: Perm) -> Perm:
    """Transposing by `layout` and then by `perm`, in one step."""
    return tuple(layout[axis] for axis in perm)


def is_identity(perm: Perm) -> bool:
    return list(perm) == list(range(len(perm)))


def transposition(node: NodeView | None) -> Perm | None:
    """The permutation of a Transpose, None for another node or where the rank is not known."""
    if node is None or not node.is_op("Transpose"):
        return None
    perm = node.attr("perm")
    if perm is not None:
        return tuple(int(axis) for axis in perm)
    rank = node.inputs[0].rank if node.inputs[0] is not None else None
    return None if rank is None else tuple(range(rank))[::-1]


def left_of(perm: Perm, gone: Iterable[int]) -> Perm:
    """The layout that is left of `perm` when the axes `gone` of the tensor are taken out."""
    kept = [axis for index, axis in enumerate(perm) if index not in set(gone)]
    order = sorted(kept)
    return tuple(order.index(axis) for axis in kept)


def grown(perm: Perm, new: Iterable[int]) -> Perm:
    """A layout of which `perm` is left when the axes `new` are taken out; they stay in place."""
    added = set(new)
    free = [axis for axis in range(len(perm) + len(added)) if axis not in added]
    result = {axis: axis for axis in added}
    result.update({axis: free[place] for axis, place in zip(free, perm, strict=True)})
    return tuple(result[axis] for axis in range(len(result)))


def placed(values: Any, perm: Perm) -> list[Any]:
    """A list with an item for each axis, in the order of the layout."""
    return [values[axis] for axis in inverse(perm)]
