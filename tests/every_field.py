"""A model in which every field of the ONNX schema is set at least once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Kind = onnx.AttributeProto


def fields_of_schema() -> set[str]:
    """The full names of all fields that a ModelProto can have inside, at any depth."""
    found: set[str] = set()
    waiting = [onnx.ModelProto.DESCRIPTOR]
    seen = set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            found.add(field.full_name)
            if field.message_type is not None:
                waiting.append(field.message_type)
    return found


def fields_of(message: Any) -> Iterator[str]:
    """The full names of the fields that are set in a message, at any depth."""
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type is not None:
            for part in value if hasattr(value, "extend") else [value]:
                yield from fields_of(part)


def every_field() -> onnx.ModelProto:
    """The model. The data of its tensor `outside` is expected in `outside.bin`, 64 bytes of it."""
    model = helper.make_model(
        _graph(),
        ir_version=11,
        opset_imports=[
            helper.make_opsetid("com.example", 3),
            helper.make_opsetid("", 21),
            helper.make_opsetid("ai.onnx.ml", 4),
        ],
        functions=[_function("", 1.5), _function("loud", 2.5)],
        producer_name="somebody",
        producer_version="1.2",
        domain="com.example",
        model_version=7,
        doc_string="what it is for",
    )
    _props(model, zebra="first", apple="second")
    _training(model)
    model.configuration.add(name="two", num_devices=2, device=["a", "b"])
    return model


def _graph() -> onnx.GraphProto:
    graph = helper.make_graph(
        [*_nodes()],
        "main",
        [_declared("x"), _info("lists", _list_of_maps()), _info("maybe", _maybe())],
        [_declared("y"), _info("labels", _list_of_maps()), _info("dark", _opaque())],
        [*_tensors()],
        doc_string="the graph",
        sparse_initializer=[_sparse("thin")],
    )
    graph.value_info.extend([_info("inner", _tensor_type(1, ["batch", 4])), _declared("nowhere")])
    graph.value_info.append(_info("sparse_inner", _sparse_type()))
    note = graph.quantization_annotation.add(tensor_name="inner")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    note.quant_parameter_tensor_names.add(key="A_FIRST", value="bias")
    _props(graph, second="2", first="1")
    return graph


def _nodes() -> Iterator[onnx.NodeProto]:
    scaled = helper.make_node("Scale", ["x"], ["inner"], "scaled", domain="com.example")
    scaled.overload = "loud"
    scaled.doc_string = "calls the function"
    _props(scaled, pkg="b", origin="a")
    device = scaled.device_configurations.add(configuration_id="two", pipeline_stage=1)
    spec = device.sharding_spec.add(tensor_name="x", device=[0, 1])
    spec.index_to_device_group_map.add(key=0, value=[0, 1])
    dim = spec.sharded_dim.add(axis=0)
    dim.simple_sharding.add(dim_value=2, num_shards=2)
    dim.simple_sharding.add(dim_param="batch", num_shards=2)
    yield scaled
    yield _all_attributes()
    yield helper.make_node("Pick", ["lists", "maybe", "", "thin"], ["labels", "dark", ""])
    yield helper.make_node("Add", ["inner", "w"], ["y"], "last")


def _all_attributes() -> onnx.NodeProto:
    node = helper.make_node("Everything", ["x"], ["sparse_inner"], domain="com.example")
    small = numpy_helper.from_array(np.arange(3, dtype=np.int16), "small")
    body = helper.make_graph(
        [helper.make_node("Add", ["inner", "held"], ["made"])],
        "body",
        [],
        [_declared("made")],
        [numpy_helper.from_array(np.ones(4, np.float32), "held")],
        value_info=[_declared("held")],
    )
    values: dict[str, tuple[int, dict[str, Any]]] = {
        "f": (Kind.FLOAT, {"f": 0.1}),
        "i": (Kind.INT, {"i": -7}),
        "s": (Kind.STRING, {"s": b"\xff\x00 not utf-8"}),
        "t": (Kind.TENSOR, {"t": small}),
        "g": (Kind.GRAPH, {"g": body}),
        "floats": (Kind.FLOATS, {"floats": [0.5, float("nan"), -0.0]}),
        "ints": (Kind.INTS, {"ints": [1, 2, 3]}),
        "strings": (Kind.STRINGS, {"strings": [b"a", b"\xfe"]}),
        "tensors": (Kind.TENSORS, {"tensors": [small, small]}),
        "graphs": (Kind.GRAPHS, {"graphs": [body, body]}),
        "tp": (Kind.TYPE_PROTO, {"tp": _list_of_maps()}),
        "tps": (Kind.TYPE_PROTOS, {"type_protos": [_maybe(), _opaque(), _tensor_type(1, None)]}),
        "sparse": (Kind.SPARSE_TENSOR, {"sparse_tensor": _sparse("")}),
        "sparses": (Kind.SPARSE_TENSORS, {"sparse_tensors": [_sparse("a"), _sparse("b")]}),
    }
    for name, (kind, value) in values.items():
        node.attribute.append(Kind(name=name, type=kind, doc_string=f"about {name}", **value))
    return node


def _tensors() -> Iterator[onnx.TensorProto]:
    kinds = onnx.TensorProto
    yield kinds(name="w", dims=[4], data_type=kinds.FLOAT, float_data=[1, 2, 3, 4])
    whole = numpy_helper.from_array(np.arange(4, dtype=np.float32), "bias")
    whole.doc_string = "kept raw"
    whole.segment.begin, whole.segment.end = 0, 4
    _props(whole, unit="m", axis="0")
    yield whole
    yield kinds(name="words", dims=[2], data_type=kinds.STRING, string_data=[b"a", b"\xff"])
    yield kinds(name="nibbles", dims=[3], data_type=kinds.INT4, int32_data=[0x21, 0x3])
    yield kinds(name="longs", dims=[1], data_type=kinds.INT64, int64_data=[1 << 40])
    yield kinds(name="doubles", dims=[1], data_type=kinds.DOUBLE, double_data=[0.1])
    yield kinds(name="unsigned", dims=[1], data_type=kinds.UINT64, uint64_data=[1 << 63])
    yield kinds(name="tiny", dims=[2], data_type=kinds.FLOAT8E4M3FN, raw_data=b"\x00\x7f")
    outside = kinds(name="outside", dims=[4, 4], data_type=kinds.FLOAT, data_location=1)
    places = {"location": "outside.bin", "offset": "0", "checksum": "abc", "length": "64"}
    for key, value in places.items():
        outside.external_data.add(key=key, value=value)
    yield outside


def _sparse(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, 2.5], np.float32), name)
    indices = numpy_helper.from_array(np.array([1, 3], np.int64), "places")
    return helper.make_sparse_tensor(values, indices, [4])


def _function(overload: str, factor: float) -> onnx.FunctionProto:
    function = helper.make_function(
        "com.example",
        "Scale",
        ["in"],
        ["out"],
        [helper.make_node("Mul", ["in", "factor"], ["out"], "times")],
        [helper.make_opsetid("", 21)],
        attributes=["axis", "mode"],
        attribute_protos=[helper.make_attribute("gain", 2.0), helper.make_attribute("bits", 8)],
        doc_string="multiplies",
        overload=overload,
        value_info=[_declared("factor"), _declared("in")],
    )
    constant = helper.make_node("Constant", [], ["factor"])
    constant.attribute.add(name="value_float", type=Kind.FLOAT, f=factor)
    linked = helper.make_node("Gain", ["in"], ["unused"], domain="com.example")
    linked.attribute.add(name="by", type=Kind.FLOAT, ref_attr_name="gain", doc_string="outer")
    nodes = [constant, linked, *function.node]
    del function.node[:]
    function.node.extend(nodes)
    _props(function, b="2", a="1")
    return function


def _training(model: onnx.ModelProto) -> None:
    training = model.training_info.add()
    step = helper.make_node("Add", ["w", "w"], ["w_next"])
    training.initialization.CopyFrom(helper.make_graph([], "start", [], []))
    training.algorithm.CopyFrom(helper.make_graph([step], "step", [], [_declared("w_next")]))
    training.initialization_binding.add(key="w", value="w")
    training.update_binding.add(key="w", value="w_next")


def _declared(name: str) -> onnx.ValueInfoProto:
    info = _info(name, _tensor_type(onnx.TensorProto.FLOAT, ["batch", 4, None, -1]))
    info.doc_string = f"says {name}"
    _props(info, z="1", y="2")
    return info


def _info(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name, type=kind)


def _tensor_type(kind: int, dims: list[str | int | None] | None) -> onnx.TypeProto:
    proto = helper.make_tensor_type_proto(kind, dims)
    proto.denotation = "IMAGE"
    if dims:
        proto.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    return proto


def _sparse_type() -> onnx.TypeProto:
    return helper.make_sparse_tensor_type_proto(onnx.TensorProto.FLOAT, ["n", 2])


def _list_of_maps() -> onnx.TypeProto:
    leaf = _tensor_type(onnx.TensorProto.FLOAT, [])
    maps = helper.make_map_type_proto(onnx.TensorProto.INT64, leaf)
    proto = helper.make_sequence_type_proto(maps)
    proto.denotation = "labels"
    return proto


def _maybe() -> onnx.TypeProto:
    return helper.make_optional_type_proto(_tensor_type(onnx.TensorProto.INT32, None))


def _opaque() -> onnx.TypeProto:
    proto = onnx.TypeProto()
    proto.opaque_type.domain = "com.example"
    proto.opaque_type.name = "Handle"
    return proto


def _props(message: Any, **entries: str) -> None:
    for key, value in entries.items():
        message.metadata_props.add(key=key, value=value)
