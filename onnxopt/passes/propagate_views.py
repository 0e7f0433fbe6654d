"""The dims of operators that give the same elements in another shape, order or number."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.passes.propagate import Dims, DimsRule, Place, Unknown
from onnxopt.passes.symbols import (
    Dim,
    Names,
    exact_quotient,
    is_natural,
    is_positive,
    product,
    symbols_of,
)


def reshaped(names: Names, source: Dims | None, target: Sequence[Dim], zero_copies: bool) -> Dims:
    """The dims a Reshape gives."""
    result: list[Dim] = []
    unknown: list[int] = []
    for index, dim in enumerate(target):
        taken = isinstance(dim, int) or is_natural(dim)
        if dim == 0 and zero_copies:
            result.append(_copied(source, index))
        elif dim != -1 and taken and (not zero_copies or _is_kept(source, index, target)):
            result.append(dim)
        else:
            unknown.append(index)
            result.append(names.fresh())
    open_places = unknown or [i for i, dim in enumerate(result) if not isinstance(dim, int)]
    if len(open_places) == 1 and source is not None:
        # The number of elements stays, whatever stands for the one dim that is left.
        (place,) = open_places
        rest = product(dim for index, dim in enumerate(result) if index != place)
        exact = exact_quotient(product(source), rest)
        if exact is not None and (-1 in target or is_positive(rest)):
            result[place] = exact
    return tuple(result)


def _copied(source: Dims | None, index: int) -> Dim:
    if source is None:
        raise Unknown("rank")
    return source[index]


def _is_kept(source: Dims | None, index: int, target: Sequence[Dim]) -> bool:
    """Whether an element is the dim it names even where it is zero, which means "copy".

    Tensors that are empty along two dims at once are left out of account.
    """
    dim = target[index]
    if isinstance(dim, int) or is_positive(dim):
        return True
    if source is None:
        return False
    if index >= len(source):
        # There is nothing to copy, so the node does not run.
        return True
    if exact_quotient(source[index], dim) is not None:
        return True
    times = exact_quotient(dim, source[index])
    if times is not None and is_positive(times):
        return True
    if -1 in target:
        return False
    # Where the dim is zero the tensor is empty, but the copy in its place would not be.
    others = symbols_of([source[index], *target[:index], *target[index + 1 :]])
    return exact_quotient(product(source), dim) is not None and not symbols_of([dim]) & others


def _transpose(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    order = place.ints_attribute("perm") or list(range(len(dims)))[::-1]
    return [tuple(dims[axis] for axis in order)]


def _reshape(place: Place) -> list[Dims | None]:
    target = place.items(1)
    if target is None:
        raise Unknown("shape")
    copies = not place.int_attribute("allowzero", 0)
    return [reshaped(place.facts.names, place.dims(0), target, copies)]


def _flatten(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    axis = place.int_attribute("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return [(product(dims[:axis]), product(dims[axis:]))]


def _expand(place: Place) -> list[Dims | None]:
    target = place.items(1)
    if target is None or not all(map(is_natural, target)):
        raise Unknown("shape")
    return [place.facts.names.broadcast_all([place.rank_known(0), tuple(target)])]


def _squeeze(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    axes = place.axes(1)
    if axes is None:
        if place.input(1) is not None or not all(isinstance(dim, int) for dim in dims):
            raise Unknown("axes")
        return [tuple(dim for dim in dims if dim != 1)]
    gone = {axis % len(dims) for axis in axes}
    return [tuple(dim for index, dim in enumerate(dims) if index not in gone)]


def _unsqueeze(place: Place) -> list[Dims | None]:
    dims = list(place.rank_known(0))
    axes = place.axes(1)
    if axes is None:
        raise Unknown("axes")
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    return [tuple(dims)]


VIEW_RULES: dict[str, DimsRule] = {
    "Expand": _expand,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
