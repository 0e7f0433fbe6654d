"""What the IR has no place for is found in the proto it was read from, and put back by name."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf import unknown_fields  # type: ignore[import-untyped]

from onnxopt.reader import read_info

_MODEL_TEXTS = ("producer_name", "producer_version", "domain", "doc_string")


def put_head(model: ir.Model, origin: onnx.ModelProto, out: onnx.ModelProto) -> None:
    """Write the fields of the model itself."""
    if model.ir_version or origin.HasField("ir_version"):
        out.ir_version = model.ir_version
    for field in _MODEL_TEXTS:
        put_text(out, origin, field, getattr(model, field))
    if model.model_version or origin.HasField("model_version"):
        out.model_version = model.model_version or 0
    put_opsets(out.opset_import, origin.opset_import, model.opset_imports)
    put_props(out.metadata_props, origin.metadata_props, model.metadata_props)
    devices = model.device_configurations
    if devices == tuple(map(ir.serde.deserialize_model_configuration, origin.configuration)):
        out.configuration.extend(origin.configuration)
    else:
        out.configuration.extend(map(ir.serde.serialize_model_configuration, devices))


def put_text(out: Any, origin: Any, field: str, text: str | None) -> None:
    """Write a string, or the empty string where one was set before."""
    if text or origin.HasField(field):
        setattr(out, field, text or "")


def put_props(out: Any, entries: Iterable[Any], props: Mapping[str, str]) -> None:
    """Write metadata: old entries in their old order, then new ones sorted by key."""
    if not props and not entries:
        return
    entries = list(entries)
    left = dict(props)
    last = {entry.key: entry.value for entry in entries}
    for entry in entries:
        if entry.key not in props:
            continue
        copy = out.add()
        copy.CopyFrom(entry)
        left.pop(entry.key, None)
        if props[entry.key] != last[entry.key]:
            copy.value = props[entry.key]
    for key in sorted(left):
        out.add(key=key, value=left[key])


def put_opsets(out: Any, entries: Sequence[Any], imports: Mapping[str, int]) -> None:
    """Write opset imports: old ones in their old order, then new ones."""
    left = dict(imports)
    last = {entry.domain: entry.version for entry in entries}
    for entry in entries:
        if entry.domain not in imports:
            continue
        copy = out.add()
        copy.CopyFrom(entry)
        left.pop(entry.domain, None)
        if imports[entry.domain] != last[entry.domain]:
            copy.version = imports[entry.domain]
    for domain, version in left.items():
        out.add(domain=domain, version=version)


def put_strings(tensors: Iterable[onnx.TensorProto], old: Iterable[onnx.TensorProto]) -> None:
    """Put back what the IR's string tensors don't keep: how their fields were set."""
    known: dict[str, onnx.TensorProto] | None = None
    for tensor in tensors:
        if tensor.data_type != onnx.TensorProto.STRING:
            continue
        if known is None:
            known = {proto.name: proto for proto in old}
        before = known.get(tensor.name)
        if before is not None and _string_parts(before) == _string_parts(tensor):
            tensor.CopyFrom(before)


def put_interface(graph: ir.Graph, out: onnx.GraphProto, origin: onnx.GraphProto) -> None:
    """Write the inputs and outputs of a graph."""
    inputs = {info.name: info for info in origin.input}
    for value in graph.inputs:
        old = inputs.get(value.name or "")
        put_info(value, out.input.add(), old, old)
    outputs = {info.name: info for info in origin.output}
    olds: list[onnx.ValueInfoProto | None] = list(origin.output)
    if [info.name for info in origin.output] != [value.name for value in graph.outputs]:
        olds = [outputs.get(value.name or "") for value in graph.outputs]
    strays = _Strays(out, origin)
    for value, old in zip(graph.outputs, olds, strict=True):
        name = value.name or ""
        if old is not None and value.is_initializer() and not value.is_graph_input():
            _put_constant_info(value, out.output.add(), old, strays.tensors)
        else:
            put_info(value, out.output.add(), old, inputs.get(name) or outputs.get(name))


def put_value_infos(graph: ir.Graph, out: Any, origin: Any) -> None:
    """Write what is known about the inner values of a graph or function body."""
    values = _inner_values(graph, isinstance(out, onnx.FunctionProto))
    declared = {info.name: info for info in origin.value_info}
    strays = _Strays(out, origin)
    for info in origin.value_info:
        value = values.get(info.name)
        if value is None:
            if strays.stays(info):
                out.value_info.append(info)
        elif value.is_initializer():
            _put_constant_info(value, out.value_info.add(), info, strays.tensors)
        else:
            put_info(value, out.value_info.add(), info, declared[info.name])
    for name, value in values.items():
        if name not in declared and not value.is_initializer() and _says_something(value):
            write_info(value, out.value_info.add())


def put_info(
    value: ir.Value,
    out: onnx.ValueInfoProto,
    old: onnx.ValueInfoProto | None,
    declared: onnx.ValueInfoProto | None,
) -> None:
    """Write a value as `old` if it still is what `declared` made of it, and else as it is now."""
    write_info(value, out)
    if old is None or declared is None or out == old:
        return
    again = onnx.ValueInfoProto()
    write_info(read_info(declared), again)
    if again == out:
        out.CopyFrom(old)


def put_annotations(out: onnx.GraphProto, origin: onnx.GraphProto) -> None:
    """Put back the quantization annotations of the tensors that are still there."""
    if not origin.quantization_annotation:
        return
    gone = _made(origin) - _made(out)
    for annotation in origin.quantization_annotation:
        names = {entry.value for entry in annotation.quant_parameter_tensor_names}
        if gone.isdisjoint({annotation.tensor_name, *names}):
            out.quantization_annotation.append(annotation)


def put_training(origin: onnx.ModelProto, out: onnx.ModelProto) -> None:
    """Put back the training graphs whose links into the model still hold."""
    if not origin.training_info:
        return
    gone = _made(origin.graph) - _made(out.graph)
    for training in origin.training_info:
        graphs = (training.initialization, training.algorithm)
        bindings = (*training.initialization_binding, *training.update_binding)
        names = {name for graph in graphs for node in graph.node for name in node.input}
        names.update(entry.key for entry in bindings)
        if gone.isdisjoint(names):
            out.training_info.append(training)


def put_unknown(origin: Any, out: Any) -> None:
    """Put back the fields of a model, graph or function that this onnx package doesn't know."""
    if not len(unknown_fields.UnknownFieldSet(origin)):
        return
    bare = type(origin)()
    bare.CopyFrom(origin)
    for field, _ in origin.ListFields():
        bare.ClearField(field.name)
    out.MergeFromString(bare.SerializeToString())


def write_info(value: ir.Value, out: onnx.ValueInfoProto) -> None:
    """Write a value as the IR knows it."""
    out.name = value.name or ""
    if value.type is not None:
        _write_type(value.type, value.shape, out.type)
    if value.doc_string:
        out.doc_string = value.doc_string
    if value.metadata_props:
        put_props(out.metadata_props, (), value.metadata_props)


def _write_type(kind: Any, shape: Any, out: onnx.TypeProto) -> None:
    if kind.denotation:
        out.denotation = kind.denotation
    if isinstance(kind, ir.SequenceType):
        _write_type(kind.elem_type, shape, out.sequence_type.elem_type)
    elif isinstance(kind, ir.OptionalType):
        _write_type(kind.elem_type, shape, out.optional_type.elem_type)
    else:
        sparse = isinstance(kind, ir.SparseTensorType)
        tensor: Any = out.sparse_tensor_type if sparse else out.tensor_type
        tensor.elem_type = kind.dtype.value
        if shape is not None:
            _write_shape(shape, tensor.shape)


def _write_shape(shape: ir.Shape, out: onnx.TensorShapeProto) -> None:
    # A scalar has a shape too.
    out.SetInParent()
    for position, dim in enumerate(shape):
        proto = out.dim.add()
        if isinstance(dim, int):
            proto.dim_value = dim
        elif dim.value is not None:
            proto.dim_param = dim.value
        denotation = shape.get_denotation(position)
        if denotation:
            proto.denotation = denotation


def _inner_values(graph: ir.Graph, function: bool) -> dict[str, ir.Value]:
    """The values that value_info may speak of, by name."""
    values = {} if function else dict(graph.initializers)
    if function:
        values.update((value.name or "", value) for value in graph.inputs)
    for node in graph:
        for value in node.outputs:
            if value.name and (function or not value.is_graph_output()):
                values[value.name] = value
    for value in () if function else graph.inputs:
        values.pop(value.name or "", None)
    return values


def _put_constant_info(
    value: ir.Value,
    out: onnx.ValueInfoProto,
    old: onnx.ValueInfoProto,
    tensors: Mapping[str, tuple[int, list[int]]],
) -> None:
    """Write an initializer's value_info as it was, unless its type or shape has changed."""
    tensor = value.const_value
    before = read_info(old)
    same = tensor is not None and tensors.get(old.name) == (tensor.dtype.value, list(tensor.shape))
    said = (value.doc_string, value.metadata_props) == (before.doc_string, before.metadata_props)
    if same and said:
        out.CopyFrom(old)
    else:
        write_info(value, out)


def _says_something(value: ir.Value) -> bool:
    return bool(value.type is not None or value.doc_string or value.metadata_props)


class _Strays:
    """Tells which value_info of no inner value belongs to something that has been deleted."""

    def __init__(self, out: Any, origin: Any) -> None:
        self._out = out
        self._origin = origin

    @functools.cached_property
    def tensors(self) -> dict[str, tuple[int, list[int]]]:
        """Element type and dims of the old initializers."""
        found = {t.name: (t.data_type, list(t.dims)) for t in self._origin.initializer}
        for sparse in self._origin.sparse_initializer:
            found[sparse.values.name] = (sparse.values.data_type, list(sparse.dims))
        return found

    @functools.cached_property
    def _made(self) -> set[str]:
        return _made(self._origin)

    @functools.cached_property
    def _interface(self) -> tuple[dict[str, Any], dict[str, Any]]:
        def by_name(graph: Any) -> dict[str, Any]:
            if isinstance(graph, onnx.FunctionProto):
                return {}
            return {info.name: info for info in (*graph.input, *graph.output)}

        return by_name(self._out), by_name(self._origin)

    def stays(self, info: onnx.ValueInfoProto) -> bool:
        """Whether nothing that the annotation speaks of has gone or changed."""
        now, before = self._interface
        if info.name in now:
            return bool(now[info.name] == before.get(info.name))
        return info.name not in self._made


def _string_parts(tensor: onnx.TensorProto) -> tuple[Any, ...]:
    props = {entry.key: entry.value for entry in tensor.metadata_props}
    return list(tensor.string_data), list(tensor.dims), tensor.doc_string, props


def _made(graph: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """The names of all values of a graph."""
    names = {name for node in graph.node for name in node.output}
    if isinstance(graph, onnx.FunctionProto):
        return names.union(graph.input)
    names.update(info.name for info in graph.input)
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    return names
