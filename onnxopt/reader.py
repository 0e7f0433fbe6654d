"""Reads a ModelProto into the IR, with each part's proto kept beside it.

The IR can't hold everything that a proto can: the order and presence of fields, map types, sparse
attributes, stray annotations and much more. So each graph keeps, in `meta`, the proto it was read
from, and each attribute and tensor carries its own. The writer finds them there by name and puts
back what the IR has no place for. `meta` survives `ir.Model.clone()`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxopt.attributes import SIMPLE, ReadAttr, read_props, read_text, refuse_bytes
from onnxopt.errors import BadModel
from onnxopt.order import describe, sort_model
from onnxopt.tensors import DTYPES, Region, SparseTensor, StoredTensor

GRAPH = "onnxopt.graph"
"""Key in `ir.Graph.meta`: the GraphProto or FunctionProto that the graph was read from."""

Find = Callable[[onnx.TensorProto], Region | None]

_Scope = dict[str, ir.Value]
_EXPORT_AGAIN = "onnxruntime would refuse it too; export the model again"
_KINDS = {kind.value: kind for kind in ir.AttributeType}


def read_model(proto: onnx.ModelProto, find: Find) -> ir.Model:
    """The IR of a proto, which belongs to the model from then on.

    Args:
        proto: The model; nodes that are out of order are put in order.
        find: Where the data of a tensor is, or None for data inside the proto.

    Raises:
        BadModel: A name is given twice or never, nodes form a cycle, or a type is unknown.
    """
    try:
        return _Reader(find).model(proto)
    except _UnknownNameError:
        sort_model(proto)
    try:
        return _Reader(find).model(proto)
    except _UnknownNameError as error:
        raise BadModel(str(error), hint=_EXPORT_AGAIN) from None


def read_info(info: onnx.ValueInfoProto) -> ir.Value:
    """A value with the type, shape, documentation and metadata of a ValueInfoProto."""
    value = ir.Value(name=info.name)
    _Reader(_nowhere).info(info, value)
    return value


def read_node(proto: onnx.NodeProto) -> ir.Node:
    """A node on its own, reading values that nothing makes. Its subgraphs are not read."""
    scope = {name: ir.Value(name=name) for name in proto.input}
    return _Reader(_nowhere, bodies=False).node(proto, [scope], {})


def _nowhere(_: onnx.TensorProto) -> None:
    return None


class _UnknownNameError(Exception):
    """A node or an output asks for a name that no value has yet."""


class _Reader:
    def __init__(self, find: Find, bodies: bool = True) -> None:
        self._find = find
        self._bodies = bodies
        # Immutable, so that one object serves every shape.
        self._symbols: dict[str, ir.SymbolicDim] = {}

    def model(self, proto: onnx.ModelProto) -> ir.Model:
        graph = self.graph(proto.graph, [])
        graph.opset_imports.update((entry.domain, entry.version) for entry in proto.opset_import)
        functions = [self.function(function) for function in proto.functions]
        _refuse_twins((str(function.identifier()) for function in functions), "a function")
        return ir.Model(
            graph,
            ir_version=proto.ir_version,
            producer_name=read_text(proto, "producer_name"),
            producer_version=read_text(proto, "producer_version"),
            domain=read_text(proto, "domain"),
            model_version=proto.model_version if proto.HasField("model_version") else None,
            doc_string=read_text(proto, "doc_string"),
            functions=functions,
            metadata_props=read_props(proto.metadata_props),
            device_configurations=tuple(
                ir.serde.deserialize_model_configuration(entry) for entry in proto.configuration
            ),
        )

    def graph(self, proto: onnx.GraphProto, outer: list[_Scope]) -> ir.Graph:
        inputs = [ir.Value(name=info.name) for info in proto.input]
        values: _Scope = {info.name: value for info, value in zip(proto.input, inputs, strict=True)}
        if len(values) != len(inputs):
            _refuse_twins((info.name for info in proto.input), "an input")
        for info, value in zip(proto.input, inputs, strict=True):
            self.info(info, value)
        infos = {info.name: info for info in proto.value_info}
        constants = self._constants(proto, values, infos)
        scopes = [*outer, values]
        nodes = [self.node(node, scopes, infos) for node in proto.node]
        refuse_bytes([*values, *_texts(proto.node)])
        graph = ir.Graph(
            inputs,
            [self._output(info, values) for info in proto.output],
            nodes=nodes,
            initializers=constants,
            doc_string=read_text(proto, "doc_string"),
            name=read_text(proto, "name"),
            metadata_props=read_props(proto.metadata_props),
        )
        graph.meta[GRAPH] = proto
        return graph

    def function(self, proto: onnx.FunctionProto) -> ir.Function:
        inputs = [ir.Value(name=name) for name in proto.input]
        values: _Scope = dict(zip(proto.input, inputs, strict=True))
        if len(values) != len(inputs):
            _refuse_twins(proto.input, f"an input of function {proto.name!r}")
        infos = {info.name: info for info in proto.value_info}
        for name, value in values.items():
            if name in infos:
                self.info(infos[name], value)
        nodes = [self.node(node, [values], infos) for node in proto.node]
        refuse_bytes([*values, *_texts(proto.node)])
        for name in proto.output:
            if name not in values:
                what = f"nothing makes {name!r}, the output of function {proto.name!r}"
                raise _UnknownNameError(what)
        graph = ir.Graph(
            inputs,
            [values[name] for name in proto.output],
            nodes=nodes,
            doc_string=read_text(proto, "doc_string"),
            opset_imports={entry.domain: entry.version for entry in proto.opset_import},
            name=proto.name,
            metadata_props=read_props(proto.metadata_props),
        )
        graph.meta[GRAPH] = proto
        attributes: list[ir.Attr] = []
        attributes += [self._attribute(attribute, []) for attribute in proto.attribute_proto]
        attributes += [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in proto.attribute]
        return ir.Function(
            proto.domain, proto.name, proto.overload, graph=graph, attributes=attributes
        )

    def node(
        self,
        proto: onnx.NodeProto,
        scopes: list[_Scope],
        infos: dict[str, onnx.ValueInfoProto],
    ) -> ir.Node:
        values = scopes[-1]
        inputs: list[ir.Value | None] = []
        for name in proto.input:
            value = values.get(name)
            if value is None and name:
                value = _captured(name, scopes, proto)
            inputs.append(value)
        # Bodies come before the outputs, which they can't see.
        attributes = [self._attribute(attribute, scopes) for attribute in proto.attribute]
        return ir.Node(
            proto.domain,
            proto.op_type,
            inputs,
            attributes,
            overload=proto.overload,
            outputs=self._outputs(proto, values, infos),
            name=proto.name,
            doc_string=read_text(proto, "doc_string"),
            metadata_props=read_props(proto.metadata_props),
            device_configurations=self._devices(proto, scopes),
        )

    def _outputs(
        self, proto: onnx.NodeProto, values: _Scope, infos: dict[str, onnx.ValueInfoProto]
    ) -> list[ir.Value]:
        outputs = [ir.Value(name=name) for name in proto.output]
        for name, value in zip(proto.output, outputs, strict=True):
            if not name:
                continue
            if name in values:
                raise BadModel(
                    f"two values are called {name!r}; node {describe(proto)} makes the second one",
                    hint=_EXPORT_AGAIN,
                )
            values[name] = value
            if name in infos:
                self.info(infos[name], value)
        return outputs

    def info(self, info: onnx.ValueInfoProto, value: ir.Value) -> None:
        """Write what a ValueInfoProto says to the value."""
        value.type, value.shape = self._type(info.type)
        value.doc_string = read_text(info, "doc_string")
        if info.metadata_props:
            value.metadata_props.update(read_props(info.metadata_props) or {})

    def _constants(
        self,
        proto: onnx.GraphProto,
        values: _Scope,
        infos: dict[str, onnx.ValueInfoProto],
    ) -> list[ir.Value]:
        tensors: list[ir.Tensor[Any]] = [self._tensor(tensor) for tensor in proto.initializer]
        tensors += [SparseTensor(tensor) for tensor in proto.sparse_initializer]
        constants: dict[str, ir.Value] = {}
        for tensor in tensors:
            name = tensor.name or ""
            if not name or name in constants:
                what = f"two initializers are called {name!r}" if name else "one has no name"
                raise BadModel(f"bad initializers: {what}", hint="rename or remove one of them")
            value = values.get(name)
            if value is None:
                value = ir.Value(name=name)
                if name in infos:
                    self.info(infos[name], value)
                # The tensor itself is the better witness.
                value.type = ir.TensorType(tensor.dtype)
                value.shape = tensor.shape
                values[name] = value
            value.const_value = tensor
            constants[name] = value
        return list(constants.values())

    def _output(self, info: onnx.ValueInfoProto, values: _Scope) -> ir.Value:
        value = values.get(info.name)
        if value is None:
            raise _UnknownNameError(f"nothing makes the graph output {info.name!r}")
        if value.is_graph_output() or value.producer() is None:
            # An input or a constant keeps what it was declared as.
            return value
        self.info(info, value)
        return value

    def _tensor(self, proto: onnx.TensorProto) -> Any:
        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise BadModel(
                f"tensor {proto.name!r} has the unknown element type {proto.data_type}",
                hint="a newer onnx package may know it: pip install -U onnx onnx-ir",
            )
        shape = ir.Shape(proto.dims, frozen=True)
        if dtype is ir.DataType.STRING and proto.data_location != onnx.TensorProto.EXTERNAL:
            doc = read_text(proto, "doc_string")
            props = read_props(proto.metadata_props)
            return ir.StringTensor(
                proto.string_data,
                shape=shape,
                name=proto.name,
                doc_string=doc,
                metadata_props=props,
            )
        return StoredTensor(proto, self._find(proto), dtype, shape)

    def _attribute(self, proto: onnx.AttributeProto, scopes: list[_Scope]) -> ReadAttr:
        kind = _KINDS.get(proto.type, ir.AttributeType.UNDEFINED)
        if proto.HasField("ref_attr_name"):
            return ReadAttr(proto, kind, None, proto.ref_attr_name)
        read = SIMPLE.get(kind)
        if read is not None:
            return ReadAttr(proto, kind, read(proto))
        value: Any = None
        if kind is ir.AttributeType.TENSOR:
            value = self._tensor(proto.t)
        elif kind is ir.AttributeType.TENSORS:
            value = [self._tensor(tensor) for tensor in proto.tensors]
        elif kind is ir.AttributeType.GRAPH:
            value = self.graph(proto.g, scopes) if self._bodies else None
        elif kind is ir.AttributeType.GRAPHS:
            value = [self.graph(graph, scopes) for graph in proto.graphs if self._bodies]
        elif kind is ir.AttributeType.TYPE_PROTO:
            value = ir.TypeAndShape(*self._type(proto.tp))
        elif kind is ir.AttributeType.TYPE_PROTOS:
            value = [ir.TypeAndShape(*self._type(entry)) for entry in proto.type_protos]
        return ReadAttr(proto, kind, value)

    def _type(self, proto: onnx.TypeProto) -> tuple[Any, ir.Shape | None]:
        kind = proto.WhichOneof("value")
        denotation = proto.denotation or None
        if kind == "tensor_type" or kind == "sparse_tensor_type":
            tensor = getattr(proto, kind)
            dtype = DTYPES.get(tensor.elem_type)
            shape = self._shape(tensor.shape) if tensor.HasField("shape") else None
            if dtype is None or dtype is ir.DataType.UNDEFINED:
                return None, shape
            make = ir.TensorType if kind == "tensor_type" else ir.SparseTensorType
            return make(dtype, denotation=denotation), shape
        if kind == "sequence_type" or kind == "optional_type":
            inner, shape = self._type(getattr(proto, kind).elem_type)
            if inner is None:
                return None, None
            wrap = ir.SequenceType if kind == "sequence_type" else ir.OptionalType
            return wrap(inner, denotation=denotation), shape
        # Maps and opaque types have no counterpart in the IR.
        return None, None

    def _shape(self, proto: onnx.TensorShapeProto) -> ir.Shape:
        dims: list[int | ir.SymbolicDim | None] = []
        denotations: list[str | None] | None = None
        for position, dim in enumerate(proto.dim):
            name = dim.dim_param
            if name:
                symbol = self._symbols.get(name)
                if symbol is None:
                    symbol = self._symbols[name] = ir.SymbolicDim(name)
                dims.append(symbol)
            else:
                dims.append(dim.dim_value if dim.HasField("dim_value") else None)
            if dim.denotation:
                denotations = denotations or [None] * len(proto.dim)
                denotations[position] = dim.denotation
        return ir.Shape(dims, denotations, frozen=True)

    def _devices(
        self, proto: onnx.NodeProto, scopes: list[_Scope]
    ) -> tuple[ir.NodeDeviceConfiguration, ...]:
        if not proto.device_configurations:
            return ()
        visible = collections.ChainMap(*reversed(scopes))
        return tuple(
            ir.serde.deserialize_node_device_configuration(entry, visible)
            for entry in proto.device_configurations
        )


def _captured(name: str, scopes: Sequence[_Scope], proto: onnx.NodeProto) -> ir.Value:
    for values in reversed(scopes[:-1]):
        if name in values:
            return values[name]
    raise _UnknownNameError(f"node {describe(proto)} reads {name!r}, which nothing makes")


def _texts(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain)


def _refuse_twins(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadModel(f"{name!r} names {what} twice", hint=_EXPORT_AGAIN)
        seen.add(name)
