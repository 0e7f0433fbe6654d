"""A model reduced to what shape inference may believe.

Left out: every annotation but the types and dims of graph inputs, the values of initializers that a
caller may override, the data of all but small tensors, names of nodes, docs and metadata.
"""

from __future__ import annotations

import keyword
from typing import Any

import onnx
import onnx_ir as ir

from onnxopt import ops

KEPT_BYTES = 1024
"""Tensors up to this size keep their data: they may say what a shape is."""


def outline(model: ir.Model) -> onnx.ModelProto:
    """The proto that shape inference runs on; nothing in it shares memory with the model."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version or 0, 4))
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    _fill(proto.graph, model.graph)
    for value in model.graph.inputs:
        _add_input(proto.graph, value, input_dims(value))
    for function in model.functions.values():
        proto.functions.append(ir.serde.serialize_function(function))
    return proto


def input_dims(value: ir.Value) -> list[int | str] | None:
    """The dims of a graph input: sizes and names. None if the rank is not declared.

    Where the declaration says nothing certain (no name, a size of zero or less, a name such as "?"
    that exporters give to every unknown dim alike) the dim is named after the input.
    """
    if value.shape is None:
        return None
    dims: list[int | str] = []
    for axis, dim in enumerate(value.shape):
        known = dim if isinstance(dim, int) else dim.value
        positive = isinstance(known, int) and known > 0
        named = isinstance(known, str) and is_name(known)
        dims.append(known if known is not None and (positive or named) else f"{value.name}.{axis}")
    return dims


def is_name(text: str) -> bool:
    """Whether two dims of that name can be taken to be equal: "batch", but not "?" or "None"."""
    return text.isidentifier() and not keyword.iskeyword(text) and text.lower() not in _NO_NAMES


_NO_NAMES = frozenset({"dynamic", "none", "null", "undefined", "unk", "unknown"})


def _fill(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    proto.name = graph.name or "graph"
    for node in graph:
        _add_node(proto, node)
    for name, value in graph.initializers.items():
        tensor = ops.constant(value)
        if tensor is not None:
            _describe(proto.initializer.add(), tensor, name)
    for value in graph.outputs:
        proto.output.add(name=value.name or "")


def _add_input(proto: onnx.GraphProto, value: ir.Value, dims: list[int | str] | None) -> None:
    found = proto.input.add(name=value.name or "")
    if value.type is None:
        return
    ir.serde.serialize_type_into(found.type, value.type)
    if dims is not None:
        ir.serde.serialize_shape_into(found.type, ir.Shape(dims))


def _add_node(proto: onnx.GraphProto, node: ir.Node) -> None:
    found = proto.node.add(op_type=node.op_type, domain=node.domain)
    if node.overload:
        found.overload = node.overload
    found.input.extend("" if value is None else value.name or "" for value in node.inputs)
    found.output.extend(value.name or "" for value in node.outputs)
    for attribute in node.attributes.values():
        if not _is_bulk(node, attribute):
            _add_attribute(found, attribute)
    if node.domain == "ai.onnx.ml" and node.op_type in _GIVES_FLOAT:
        # ONNX has no inference for these, and without a type it stops there.
        proto.value_info.add(name=found.output[0]).type.tensor_type.elem_type = ir.DataType.FLOAT


_GIVES_FLOAT = frozenset(
    {"FeatureVectorizer", "LinearRegressor", "Normalizer", "SVMRegressor", "Scaler"}
)


def _is_bulk(node: ir.Node, attribute: ir.Attr) -> bool:
    """Whether the attribute holds the parameters of a classic model, such as the nodes of trees."""
    return node.domain == "ai.onnx.ml" and attribute.name.startswith(_BULK)


_BULK = ("class_", "coefficients", "leaf_", "nodes_", "support_vectors", "target_", "tree_")


def _add_attribute(proto: onnx.NodeProto, attribute: ir.Attr) -> None:
    kind: Any = attribute.type
    if attribute.is_ref():
        proto.attribute.append(ir.serde.serialize_reference_attribute(attribute))
    elif kind == ir.AttributeType.GRAPH:
        _add_body(proto.attribute.add(name=attribute.name, type=kind).g, attribute.as_graph())
    elif kind == ir.AttributeType.GRAPHS:
        found = proto.attribute.add(name=attribute.name, type=kind)
        for graph in attribute.as_graphs():
            _add_body(found.graphs.add(), graph)
    elif (tensor := ops.tensor_of(attribute)) is not None:
        _describe(proto.attribute.add(name=attribute.name, type=kind).t, tensor, "")
    else:
        ir.serde.serialize_attribute_into(proto.attribute.add(), attribute)


def _add_body(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    """A body with the element types of its inputs; their dims come from the node around it."""
    _fill(proto, graph)
    for value in graph.inputs:
        _add_input(proto, value, None)


def _describe(proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str) -> None:
    if tensor.nbytes <= KEPT_BYTES:
        ir.serde.serialize_tensor_into(proto, tensor)
    else:
        proto.data_type = int(tensor.dtype)
        proto.dims.extend(tensor.shape.numpy())
    proto.name = name
