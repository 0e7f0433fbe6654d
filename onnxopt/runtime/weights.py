"""Hands a model to onnxruntime without copying its weights, whatever their size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxopt import io

# onnxruntime infers shapes from the values of initializers, though not of ones this large.
_APART = 1 << 16


@dataclass(frozen=True, slots=True)
class Loadable:
    """A serialized graph and the weights that belong in it, by name, as onnxruntime's values.

    The values look into memory that `kept` holds; it has to live as long as the session.
    """

    graph: bytes
    names: list[str]
    values: list[onnxruntime.OrtValue]
    kept: tuple[Any, ...]


def loadable(model: ir.Model) -> Loadable:
    """The model as onnxruntime loads it, its large weights beside the graph.

    Raises:
        BadModel: What has to lie inside the graph takes more than 2 GB.
    """
    proto, apart = io.split(model, apart_bytes=_APART)
    unread = _unread(model, apart)
    _drop(proto, unread)
    names, values, kept = [], [], []
    for name, slot in apart.items():
        if name in unread:
            continue
        array = _array(slot.data(), slot.proto)
        if array is None:
            slot.proto.raw_data = slot.tensor.tobytes()
            continue
        _mark_external(slot.proto, slot.length)
        boxed = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, slot.proto.data_type)
        names.append(name)
        values.append(boxed)
        kept.append((array, slot.tensor))
    return Loadable(proto.SerializeToString(), names, values, tuple(kept))


def _unread(model: ir.Model, names: Iterable[str]) -> set[str]:
    """Those of the initializers that nothing reads: onnxruntime forgets them and takes no data."""
    held = model.graph.initializers
    return {
        name
        for name in names
        if name in held
        and not held[name].uses()
        and not held[name].is_graph_input()
        and not held[name].is_graph_output()
    }


def _drop(proto: onnx.ModelProto, names: set[str]) -> None:
    for index in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[index].name in names:
            del proto.graph.initializer[index]


def _array(data: Any, proto: onnx.TensorProto) -> np.ndarray[Any, Any] | None:
    """A view of the data as an array, None for types of less than a byte an element."""
    dtype = ir.DataType(proto.data_type)
    if dtype.bitwidth < 8 or dtype is ir.DataType.STRING:
        return None
    known = dtype.numpy() if dtype.numpy().isbuiltin else np.dtype(f"u{dtype.itemsize}")
    array = np.frombuffer(data, known).reshape(tuple(proto.dims))
    return array if array.flags.aligned else array.copy()


def _mark_external(proto: onnx.TensorProto, length: int) -> None:
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "memory"), ("offset", "0"), ("length", str(length))):
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
