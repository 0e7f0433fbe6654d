"""Arithmetic, comparisons and logic on the elements of small integer and boolean tensors.

It is that of onnxruntime's kernels: integer division drops the fraction, and a result that does
not fit its dtype is left unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.passes.propagate import Elements, ElementsRule, Place, Unknown
from onnxopt.passes.symbols import (
    Dim,
    Names,
    exact_quotient,
    is_natural,
    is_positive,
    never_equal,
)

Array = np.ndarray[Any, np.dtype[Any]]
Found = list[Elements | None]

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})


def need(found: Elements | None) -> Elements:
    """The elements.

    Raises:
        Unknown: They are not followed.
    """
    if found is None:
        raise Unknown("elements")
    return found


def array_of(items: Any) -> Array:
    """An object array of dims; a list becomes one dimensional, a single dim a scalar."""
    if isinstance(items, np.ndarray):
        return items.astype(object)
    if isinstance(items, list):
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array
    return np.array(items, dtype=object)


def each(function: Callable[..., Any]) -> Callable[..., Array]:
    """The function applied to each element of arrays that are broadcast against each other."""

    def apply(*arrays: Array) -> Array:
        count = len(arrays)
        return array_of(np.asarray(np.frompyfunc(function, count, 1)(*arrays), dtype=object))

    return apply


def _binary(operation: Callable[[Names, Dim, Dim], Dim]) -> ElementsRule:
    def rule(place: Place) -> Found:
        inputs = [need(place.elements(index)) for index in range(len(place.node.inputs))]
        names = place.facts.names
        result = inputs[0].array
        for other in inputs[1:]:
            result = each(lambda left, right: operation(names, left, right))(result, other.array)
        return [fitting(Elements(result, inputs[0].dtype))]

    return rule


def fitting(found: Elements) -> Elements | None:
    """The elements, or None if a number among them does not fit the dtype."""
    if found.dtype not in _INTEGERS:
        return found
    limits = np.iinfo(found.dtype.numpy())
    inside = all(
        limits.min <= item <= limits.max for item in found.array.flat if isinstance(item, int)
    )
    return found if inside else None


def _divide(names: Names, left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        if right == 0:
            raise Unknown("division by zero")
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    exact = exact_quotient(left, right)
    if exact is not None:
        return exact
    if is_natural(left):
        floored = names.floor_divide(left, right)
        if floored is not None:
            return floored
    natural = is_natural(left) and is_natural(right)
    return names.of("div", left, right, natural=natural)


def _modulo(place: Place) -> Found:
    truncating = place.int_attribute("fmod", 0)

    def operation(names: Names, left: Dim, right: Dim) -> Dim:
        if isinstance(left, int) and isinstance(right, int):
            rest = abs(left) % abs(right)
            return (-rest if left < 0 else rest) if truncating else left % right
        if exact_quotient(left, right) is not None:
            return 0
        natural = is_natural(left) and is_natural(right)
        return names.of("fmod" if truncating else "mod", left, right, natural=natural)

    return _binary(operation)(place)


def _compare(operation: Callable[[Dim, Dim], bool | None], name: str) -> ElementsRule:
    def rule(place: Place) -> Found:
        left, right = need(place.elements(0)), need(place.elements(1))

        def decide(one: Dim, other: Dim) -> Dim:
            decided = operation(one, other)
            if decided is None:
                return place.facts.names.of(name, one, other, natural=True)
            return decided

        return [Elements(each(decide)(left.array, right.array), ir.DataType.BOOL)]

    return rule


def _equal(left: Dim, right: Dim) -> bool | None:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if left == right:
        return True
    return False if never_equal(left, right) else None


def _less(left: Dim, right: Dim) -> bool | None:
    if is_positive(right - left):
        return True
    return False if is_natural(left - right) else None


def _not_less(left: Dim, right: Dim) -> bool | None:
    decided = _less(left, right)
    return None if decided is None else not decided


def _not(place: Place) -> Found:
    source = need(place.elements(0))

    def decide(item: Dim) -> Dim:
        return (
            (not item) if isinstance(item, int) else place.facts.names.of("not", item, natural=True)
        )

    return [Elements(each(decide)(source.array), ir.DataType.BOOL)]


def _both(names: Names, left: Dim, right: Dim) -> Dim:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int):
            return other if one else False
    return left if left == right else names.of("and", left, right, natural=True)


def _either(names: Names, left: Dim, right: Dim) -> Dim:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int):
            return True if one else other
    return left if left == right else names.of("or", left, right, natural=True)


def _exclusive(names: Names, left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return bool(left) != bool(right)
    return False if left == right else names.of("xor", left, right, natural=True)


def _where(place: Place) -> Found:
    condition, left, right = (need(place.elements(index)) for index in range(3))

    def choose(which: Dim, one: Dim, other: Dim) -> Dim:
        if isinstance(which, int):
            return one if which else other
        if one == other:
            return one
        natural = is_natural(one) and is_natural(other)
        return place.facts.names.of("where", which, one, other, natural=natural)

    return [Elements(each(choose)(condition.array, left.array, right.array), left.dtype)]


def _negate(place: Place) -> Found:
    source = need(place.elements(0))
    return [fitting(Elements(each(lambda item: -item)(source.array), source.dtype))]


def _absolute(place: Place) -> Found:
    source = need(place.elements(0))

    def absolute(item: Dim) -> Dim:
        if isinstance(item, int):
            return abs(item)
        return item if is_natural(item) else place.facts.names.of("abs", item, natural=True)

    return [fitting(Elements(each(absolute)(source.array), source.dtype))]


def _reduce(combine: Callable[[Names, Dim, Dim], Dim], empty: int | None) -> ElementsRule:
    def rule(place: Place) -> Found:
        source = need(place.elements(0))
        names, rank = place.facts.names, source.array.ndim
        axes = place.axes(1)
        if axes is None and place.input(1) is not None:
            raise Unknown("axes")
        if not axes and place.int_attribute("noop_with_empty_axes", 0):
            return [source]
        gone = {axis % rank for axis in axes or range(rank)}
        if rank != 1 or len(gone) != 1 or (empty is None and not source.array.size):
            raise Unknown("axes")
        total: Dim = 0 if empty is None else empty
        for index, item in enumerate(source.array):
            total = item if index == 0 and empty is None else combine(names, total, item)
        keep = place.int_attribute("keepdims", 1)
        return [fitting(Elements(array_of([total] if keep else total), source.dtype))]

    return rule


def _add(_: Names, left: Dim, right: Dim) -> Dim:
    return left + right


def _multiply(_: Names, left: Dim, right: Dim) -> Dim:
    return left * right


ARITHMETIC_RULES: dict[str, ElementsRule] = {
    "Abs": _absolute,
    "Add": _binary(_add),
    "And": _binary(_both),
    "Div": _binary(_divide),
    "Equal": _compare(_equal, "equal"),
    "Greater": _compare(lambda left, right: _less(right, left), "greater"),
    "GreaterOrEqual": _compare(_not_less, "atleast"),
    "Less": _compare(_less, "less"),
    "LessOrEqual": _compare(lambda left, right: _not_less(right, left), "atmost"),
    "Max": _binary(Names.greatest),
    "Min": _binary(Names.least),
    "Mod": _modulo,
    "Mul": _binary(_multiply),
    "Neg": _negate,
    "Not": _not,
    "Or": _binary(_either),
    "ReduceMax": _reduce(Names.greatest, None),
    "ReduceMin": _reduce(Names.least, None),
    "ReduceProd": _reduce(_multiply, 1),
    "ReduceSum": _reduce(_add, 0),
    "Sub": _binary(lambda _, left, right: left - right),
    "Sum": _binary(_add),
    "Where": _where,
    "Xor": _binary(_exclusive),
}
