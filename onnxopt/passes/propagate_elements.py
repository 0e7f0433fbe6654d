"""The elements each operator gives its outputs, for small integer and boolean tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import MOST_ELEMENTS, Elements, ElementsRule, Place, Unknown
from onnxopt.passes.propagate_arithmetic import ARITHMETIC_RULES, Found, array_of, each, need
from onnxopt.passes.propagate_control import if_elements
from onnxopt.passes.propagate_dims import shape_window, slices
from onnxopt.passes.symbols import Dim, Names, is_positive, product

_FOLLOWED = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


def _numbers(place: Place, index: int) -> list[int]:
    found = place.integers(index)
    if found is None:
        raise Unknown("elements")
    return found


def _shape(place: Place) -> Found:
    dims = place.dims(0)
    if dims is None:
        raise Unknown("rank")
    return [Elements(array_of(list(dims[shape_window(place)])), ir.DataType.INT64)]


def _size(place: Place) -> Found:
    dims = place.dims(0)
    if dims is None:
        raise Unknown("rank")
    return [Elements(array_of(product(dims)), ir.DataType.INT64)]


def _identity(place: Place) -> Found:
    return [place.elements(0)]


def _cast(place: Place) -> Found:
    source = need(place.elements(0))
    target = ir.DataType(place.int_attribute("to", 0))
    if target not in _FOLLOWED:
        raise Unknown("dtype")
    if target == ir.DataType.BOOL and source.dtype != target:
        return [Elements(each(lambda item: _truth(place.facts.names, item))(source.array), target)]
    if source.known:
        return [Elements(source.array.astype(target.numpy()).astype(object), target)]
    # A dim is far below the largest int32: no tensor of such a size exists.
    return [Elements(source.array, target)]


def _truth(names: Names, item: Dim) -> Dim:
    if isinstance(item, int):
        return bool(item)
    return True if is_positive(item) else names.of("bool", item, natural=True)


def _gather(place: Place) -> Found:
    source = need(place.elements(0))
    indices = need(place.elements(1)).numbers()
    if indices is None:
        raise Unknown("indices")
    taken = np.take(source.array, indices.astype(np.int64), axis=place.int_attribute("axis", 0))
    return [Elements(array_of(taken), source.dtype)]


def _slice(place: Place) -> Found:
    source = need(place.elements(0))
    window = [slice(None)] * source.array.ndim
    for axis, start, end, step in slices(place, source.array.ndim):
        if not isinstance(start, int) or not isinstance(end, int):
            raise Unknown("window")
        window[axis] = slice(start, end, step)
    return [Elements(source.array[tuple(window)], source.dtype)]


def _concat(place: Place) -> Found:
    parts = [need(place.elements(index)) for index in range(len(place.node.inputs))]
    joined = np.concatenate([part.array for part in parts], axis=place.int_attribute("axis", 0))
    return [Elements(joined, parts[0].dtype)]


def _split(place: Place) -> Found:
    source = need(place.elements(0))
    axis = place.int_attribute("axis", 0)
    found: Found = []
    position = 0
    for value in place.node.outputs:
        dims = place.facts.dims_of(value)
        size = None if dims is None else dims[axis]
        if not isinstance(size, int):
            raise Unknown("split")
        part = range(position, position + size)
        found.append(Elements(np.take(source.array, part, axis=axis), source.dtype))
        position = part.stop
    return found


def _in_new_shape(place: Place) -> Found:
    """The same elements in the dims found for the output: Reshape, Squeeze, Unsqueeze, Flatten."""
    source = need(place.elements(0))
    dims = place.facts.dims_of(place.node.outputs[0])
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        raise Unknown("dims")
    return [Elements(source.array.reshape(dims), source.dtype)]


def _transpose(place: Place) -> Found:
    source = need(place.elements(0))
    return [Elements(source.array.transpose(place.ints_attribute("perm")), source.dtype)]


def _expand(place: Place) -> Found:
    source = need(place.elements(0))
    dims = _static_output(place)
    return [Elements(np.broadcast_to(source.array, dims).copy(), source.dtype)]


def _tile(place: Place) -> Found:
    source = need(place.elements(0))
    _static_output(place)
    return [Elements(np.tile(source.array, _numbers(place, 1)), source.dtype)]


def _static_output(place: Place) -> tuple[int, ...]:
    """The dims of the output, if they are numbers and make a tensor that is small enough."""
    dims = place.facts.dims_of(place.node.outputs[0])
    sizes = tuple(dim for dim in dims or () if isinstance(dim, int))
    if dims is None or len(sizes) != len(dims) or math.prod(sizes) > MOST_ELEMENTS:
        raise Unknown("dims")
    return sizes


def _filled(place: Place) -> Found:
    tensor = ops.tensor_of(place.node.attributes.get("value"))
    if tensor is None or tensor.dtype not in _FOLLOWED:
        raise Unknown("dtype")
    sizes = _static_output(place)
    return [Elements(array_of(np.full(sizes, tensor.numpy().reshape(-1)[0])), tensor.dtype)]


def _range(place: Place) -> Found:
    start, limit, delta = (_numbers(place, index)[0] for index in range(3))
    items: list[Dim] = list(range(start, limit, delta)[: MOST_ELEMENTS + 1])
    return [Elements(array_of(items), need(place.elements(0)).dtype)]


ELEMENTS_RULES: dict[str, ElementsRule] = {
    **ARITHMETIC_RULES,
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _in_new_shape,
    "Gather": _gather,
    "Identity": _identity,
    "If": if_elements,
    "Range": _range,
    "Reshape": _in_new_shape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _in_new_shape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _in_new_shape,
}
