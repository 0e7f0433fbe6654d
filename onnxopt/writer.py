"""Writes the IR as a ModelProto, with everything that the IR had no place for put back.

Each part is written from the IR and compared with the proto it was read from, which is found by
name. Where they differ, the old proto is read and written once more on its own: if that gives what
the IR gives now, nothing has touched the part, and the old proto goes out as it came in. So what
the IR forgets need not be listed, and a part that was rewritten or deleted takes along what was
known about it.

Large data is left out: a ticket stands for it (see `onnxopt.wire`), or the reference to the
external file that it came from, and `Written.slots` says which tensor belongs there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import onnx
import onnx_ir as ir

from onnxopt import setaside, wire
from onnxopt.attributes import ReadAttr
from onnxopt.errors import BadModel
from onnxopt.reader import GRAPH, read_node
from onnxopt.tensors import SparseTensor, StoredTensor

FUNCTION_INFOS = 10
"""The first IR version in which functions have value_info."""

_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a thin proto whose data is not in it. `ticket` is empty for external data."""

    proto: onnx.TensorProto
    tensor: Any
    ticket: bytes

    @property
    def length(self) -> int:
        """How many bytes the data has."""
        region = getattr(self.tensor, "region", None)
        return int(self.tensor.nbytes if region is None else region.length)

    def data(self) -> bytes | memoryview:
        """The data, not copied where that is possible.

        Raises:
            BadModel: The tensor is not as large as it says.
        """
        region = getattr(self.tensor, "region", None)
        try:
            data = region.view if region is not None else self.tensor.tobytes()
        except (OSError, ValueError) as error:
            raise BadModel(
                f"the data of tensor {self.proto.name!r} can't be read: {error}",
                hint="load the model from its path, so that its data files are found and checked",
            ) from error
        if len(data) != self.length:
            raise BadModel(
                f"tensor {self.proto.name!r} has {len(data)} bytes of data instead of {self.length}"
            )
        return cast("bytes | memoryview", data)

    def append_to(self, file: BinaryIO) -> None:
        """Append the data to a file; what is in a mapped file is not read into memory."""
        region = getattr(self.tensor, "region", None)
        if region is not None:
            region.store.copy(region.offset, region.length, file)
        else:
            file.write(self.data())


@dataclass(frozen=True, slots=True)
class Written:
    """A thin ModelProto and the tensors that are to be filled in."""

    proto: onnx.ModelProto
    slots: list[Slot]


def write_model(model: ir.Model, origin: onnx.ModelProto | None) -> Written:
    """The model as a thin proto.

    Args:
        model: The model; it is not changed.
        origin: The thin proto it was read from, if any.

    Raises:
        BadModel: A value has no name or an initializer no data.
    """
    origin = origin or onnx.ModelProto()
    writer = _Writer(model.ir_version)
    proto = onnx.ModelProto()
    setaside.put_head(model, origin, proto)
    # A model has a graph, even if there is nothing in it.
    proto.graph.SetInParent()
    writer.graph(model.graph, proto.graph)
    for function in model.functions.values():
        writer.function(function, proto.functions.add())
    setaside.put_training(origin, proto)
    setaside.put_unknown(origin, proto)
    return Written(proto, writer.slots)


class _Writer:
    def __init__(self, ir_version: int) -> None:
        self.slots: list[Slot] = []
        self._ir_version = ir_version

    def graph(self, graph: ir.Graph, out: onnx.GraphProto) -> None:
        origin = graph.meta.get(GRAPH)
        if not isinstance(origin, onnx.GraphProto):
            origin = onnx.GraphProto()
        setaside.put_text(out, origin, "name", graph.name)
        setaside.put_text(out, origin, "doc_string", graph.doc_string)
        setaside.put_props(out.metadata_props, origin.metadata_props, graph.metadata_props)
        for name, value in graph.initializers.items():
            self._initializer(name, value.const_value, out)
        setaside.put_strings(out.initializer, origin.initializer)
        self._nodes(graph, out, origin)
        setaside.put_interface(graph, out, origin)
        setaside.put_value_infos(graph, out, origin)
        setaside.put_annotations(out, origin)
        setaside.put_unknown(origin, out)

    def function(self, function: ir.Function, out: onnx.FunctionProto) -> None:
        origin = function.graph.meta.get(GRAPH)
        if not isinstance(origin, onnx.FunctionProto):
            origin = onnx.FunctionProto()
        for field in ("name", "domain", "overload", "doc_string"):
            setaside.put_text(out, origin, field, getattr(function, field))
        setaside.put_props(out.metadata_props, origin.metadata_props, function.metadata_props)
        setaside.put_opsets(out.opset_import, origin.opset_import, function.opset_imports)
        out.input.extend([_name(value) for value in function.inputs])
        out.output.extend([_name(value) for value in function.outputs])
        for attribute in function.attributes.values():
            if attribute.value is None and not isinstance(attribute, ReadAttr):
                out.attribute.append(attribute.name)
            else:
                _write_attribute(attribute, out.attribute_proto.add())
        self._collect(function.attributes, out.attribute_proto)
        self._nodes(function.graph, out, origin)
        if self._ir_version >= FUNCTION_INFOS or origin.value_info:
            setaside.put_value_infos(function.graph, out, origin)
        setaside.put_unknown(origin, out)

    def _nodes(
        self,
        graph: ir.Graph,
        out: onnx.GraphProto | onnx.FunctionProto,
        origin: onnx.GraphProto | onnx.FunctionProto,
    ) -> None:
        known = {_key(node): node for node in origin.node}
        for node in graph:
            proto = out.node.add()
            kinds = _write_node(node, proto)
            bodies = not kinds.isdisjoint(_BODIES)
            old = known.get(_key(proto))
            if old is not None and old.op_type == proto.op_type:
                _restore(proto, _without_bodies(old) if bodies else old)
            if not kinds.isdisjoint(_TENSORS):
                self._collect(node.attributes, proto.attribute)
            if bodies:
                self._bodies(node, proto)

    def _bodies(self, node: ir.Node, out: onnx.NodeProto) -> None:
        for proto in out.attribute:
            attribute = node.attributes[proto.name]
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.GRAPH:
                self.graph(attribute.as_graph(), proto.g)
            elif attribute.type is ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    self.graph(graph, proto.graphs.add())

    def _initializer(self, name: str, tensor: Any, out: onnx.GraphProto) -> None:
        if tensor is None:
            raise BadModel(f"the initializer {name!r} has no data")
        if isinstance(tensor, SparseTensor):
            sparse = out.sparse_initializer.add()
            sparse.CopyFrom(tensor.header)
            if sparse.values.name != name:
                sparse.values.name = name
            return
        proto = out.initializer.add()
        _write_tensor(tensor, proto)
        if proto.name != name:
            proto.name = name
        self._slot(proto, tensor)

    def _collect(self, attributes: Any, protos: Iterable[onnx.AttributeProto]) -> None:
        for proto in protos:
            attribute = attributes.get(proto.name)
            if attribute is None or attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.TENSOR:
                self._slot(proto.t, attribute.value)
            elif attribute.type is ir.AttributeType.TENSORS:
                for entry, tensor in zip(proto.tensors, attribute.value, strict=True):
                    self._slot(entry, tensor)

    def _slot(self, proto: onnx.TensorProto, tensor: Any) -> None:
        if isinstance(tensor, StoredTensor) and tensor.region is None:
            return
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            self.slots.append(Slot(proto, tensor, b""))
        elif wire.is_ticket(proto.raw_data):
            self.slots.append(Slot(proto, tensor, proto.raw_data))


def _write_node(node: ir.Node, out: onnx.NodeProto) -> set[ir.AttributeType]:
    """Write a node without its bodies; the types of its attributes."""
    out.op_type = node.op_type
    if node.domain:
        out.domain = node.domain
    if node.name:
        out.name = node.name
    if node.overload:
        out.overload = node.overload
    if node.doc_string:
        out.doc_string = node.doc_string
    if node.metadata_props:
        setaside.put_props(out.metadata_props, (), node.metadata_props)
    out.input.extend([_name(value) if value is not None else "" for value in node.inputs])
    outputs = [value.name or "" for value in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    out.output.extend(outputs)
    kinds: set[ir.AttributeType] = set()
    for attribute in node.attributes.values():
        kinds.add(attribute.type)
        _write_attribute(attribute, out.attribute.add())
    for configuration in node.device_configurations:
        device = ir.serde.serialize_node_device_configuration(configuration)
        out.device_configurations.append(device)
    return kinds


def _write_attribute(attribute: ir.Attr, out: onnx.AttributeProto) -> None:
    """Write an attribute, bodies left out."""
    kind = attribute.type
    if kind in _BODIES and not attribute.is_ref():
        out.name = attribute.name
        out.type = _proto_kind(kind)
        if attribute.doc_string:
            out.doc_string = attribute.doc_string
    elif isinstance(attribute, ReadAttr):
        out.CopyFrom(attribute.proto)
        if out.name != attribute.name:
            out.name = attribute.name
    elif attribute.is_ref():
        ir.serde.serialize_reference_attribute_into(out, attribute)
    elif kind in _TENSORS:
        out.name = attribute.name
        out.type = _proto_kind(kind)
        if kind is ir.AttributeType.TENSOR:
            _write_tensor(attribute.value, out.t)
        for tensor in attribute.value if kind is ir.AttributeType.TENSORS else ():
            _write_tensor(tensor, out.tensors.add())
    else:
        ir.serde.serialize_attribute_into(out, attribute)


def _proto_kind(kind: ir.AttributeType) -> onnx.AttributeProto.AttributeType:
    return cast(onnx.AttributeProto.AttributeType, kind.value)


def _write_tensor(tensor: Any, out: onnx.TensorProto) -> None:
    """Write a tensor, with a ticket in the place of large data."""
    if isinstance(tensor, StoredTensor):
        out.CopyFrom(tensor.header)
        return
    large = tensor.nbytes >= wire.LARGE
    kept = (ir.TensorProtoTensor, ir.StringTensor, ir.ExternalTensor)
    if isinstance(tensor, kept) and not (large and isinstance(tensor, ir.TensorProtoTensor)):
        ir.serde.serialize_tensor_into(out, tensor)
        return
    out.data_type = tensor.dtype.value
    out.dims.extend(tensor.shape.numpy())
    if tensor.name:
        out.name = tensor.name
    if tensor.doc_string:
        out.doc_string = tensor.doc_string
    setaside.put_props(out.metadata_props, (), tensor.metadata_props)
    out.raw_data = wire.new_ticket() if large else tensor.tobytes()


def _restore(proto: onnx.NodeProto, old: onnx.NodeProto) -> None:
    """Put the old proto in the place of the new one if they mean the same to the IR."""
    if proto == old:
        return
    again = onnx.NodeProto()
    _write_node(read_node(old), again)
    if again == proto:
        proto.CopyFrom(old)


def _without_bodies(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        attribute.ClearField("g")
        attribute.ClearField("graphs")
    return copy


def _key(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "") or f"\0{node.name}"


def _name(value: ir.Value) -> str:
    name = value.name
    if name is None:
        raise BadModel(f"a value has no name: {value}")
    return name
