"""From the attribute values of a graphsurgeon node back to `ir.Attr`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from onnxopt.errors import BadModel
from onnxopt.passes.foreign_graph import StoredValues
from onnxopt.passes.foreign_import import surgeon_attribute
from onnxopt.passes.foreign_tensors import ir_dtype, new_tensor, same_tensor

Bodies = Mapping[tuple[str, int], Callable[[], ir.Graph]]

_PROTOS = (
    onnx.TensorProto,
    onnx.SparseTensorProto,
    onnx.TypeProto,
    onnx.GraphProto,
)


def export_attribute(name: str, value: Any, known: ir.Attr | None, bodies: Bodies) -> ir.Attr:
    """The attribute `name`; `known` itself where the value is still the one handed out.

    Args:
        name: The attribute's name.
        value: What the edited node holds.
        known: The attribute of that name on the node before the edit, if there was one.
        bodies: Makers of the graphs this node holds, by attribute name and position.

    Raises:
        BadModel: The value is of a kind that no attribute can hold.
    """
    doc = known.doc_string if known is not None else None
    if isinstance(value, gs.Graph):
        return ir.AttrGraph(name, bodies[name, 0](), doc_string=doc)
    if isinstance(value, (list, tuple)) and any(isinstance(item, gs.Graph) for item in value):
        graphs = [bodies[name, index]() for index in range(len(value))]
        return ir.AttrGraphs(name, graphs, doc_string=doc)
    if known is not None and _untouched(value, known):
        return known
    if isinstance(value, gs.Node.AttributeRef):
        number = gs.util.misc.convert_to_onnx_attr_type(value.type)
        return ir.RefAttr(name, value.name, ir.AttributeType(number), doc_string=doc)
    made = _new_attribute(name, value, known)
    made.doc_string = doc
    return made


def _untouched(value: Any, known: ir.Attr) -> bool:
    if known.is_ref():
        return isinstance(value, gs.Node.AttributeRef) and value.name == known.ref_attr_name
    if known.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return False
    if known.type == ir.AttributeType.TENSOR:
        return _same_constant(value, known.value)
    if known.type == ir.AttributeType.TENSORS:
        if not isinstance(value, list) or len(value) != len(known.value):
            return False
        return all(map(_same_constant, value, known.value))
    handed = surgeon_attribute(known)
    return type(value) is type(handed) and bool(value == handed)


def _same_constant(value: Any, tensor: ir.TensorProtocol) -> bool:
    if not isinstance(value, gs.Constant):
        return False
    if isinstance(value._values, StoredValues) and value._values.origin is tensor:
        return True
    return same_tensor(_tensor(value), tensor)


def _tensor(value: Any) -> ir.TensorProtocol:
    if not isinstance(value, gs.Constant):
        return new_tensor(np.asarray(value), np.asarray(value).dtype, "")
    if isinstance(value._values, StoredValues):
        return value._values.origin
    return new_tensor(np.asarray(value.values), value.export_dtype, value.name)


def _new_attribute(name: str, value: Any, known: ir.Attr | None) -> ir.Attr:
    if isinstance(value, (gs.Tensor, np.ndarray)):
        return ir.AttrTensor(name, _tensor(value))
    if isinstance(value, (type, np.dtype)):
        return ir.AttrInt64(name, int(ir_dtype(value)))
    if isinstance(value, (list, tuple)):
        return _list_attribute(name, list(value), known)
    if isinstance(value, (bool, int, np.integer)):
        wanted = known is not None and known.type == ir.AttributeType.FLOAT
        return ir.AttrFloat32(name, float(value)) if wanted else ir.AttrInt64(name, int(value))
    if isinstance(value, (float, np.floating)):
        return ir.AttrFloat32(name, float(value))
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, bytes):
        return ir.Attr(name, ir.AttributeType.STRING, value)
    if isinstance(value, _PROTOS):
        return _from_proto(name, value)
    raise BadModel(
        f"attribute {name!r} holds a {type(value).__name__}, which no ONNX attribute can",
        hint="use a number, a string, a list of these, an array, a gs.Constant or a gs.Graph",
    )


def _list_attribute(name: str, items: list[Any], known: ir.Attr | None) -> ir.Attr:
    if not items:
        # An empty list doesn't say what it is a list of.
        kind = known.type if known is not None else ir.AttributeType.INTS
        return ir.Attr(name, kind, ())
    if all(isinstance(item, (gs.Tensor, np.ndarray)) for item in items):
        return ir.AttrTensors(name, [_tensor(item) for item in items])
    if all(isinstance(item, (str, bytes)) for item in items):
        return ir.AttrStrings(name, items)
    if all(isinstance(item, _PROTOS) for item in items):
        return _from_proto(name, items)
    wanted = known is not None and known.type == ir.AttributeType.FLOATS
    if not wanted and all(isinstance(item, (bool, int, np.integer)) for item in items):
        return ir.AttrInt64s(name, [int(item) for item in items])
    if all(isinstance(item, (bool, int, float, np.number)) for item in items):
        return ir.AttrFloat32s(name, [float(item) for item in items])
    raise BadModel(
        f"attribute {name!r} mixes kinds in one list",
        hint="a list attribute holds numbers, strings, tensors or graphs, one kind only",
    )


def _from_proto(name: str, value: Any) -> ir.Attr:
    return ir.serde.deserialize_attribute(onnx.helper.make_attribute(name, value))
