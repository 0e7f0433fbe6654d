"""Load and save change no field, and a rewrite changes none beside what it rewrites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus import Case, cases, frozen
from every_field import every_field, fields_of, fields_of_schema
from onnx import helper, numpy_helper

from onnxopt import io

Change = Callable[[onnx.ModelProto], object]
FLOAT = onnx.TensorProto.FLOAT


def small() -> onnx.ModelProto:
    """x, w -> Add -> t -> Relu -> u -> If (captures t) -> y."""
    then = helper.make_graph(
        [helper.make_node("Mul", ["t", "c"], ["p"])],
        "then",
        [],
        [helper.make_tensor_value_info("p", FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "c")],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["u"], ["q"])],
        "else",
        [],
        [helper.make_tensor_value_info("q", FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Add", ["x", "w"], ["t"], "add"),
        helper.make_node("Relu", ["t"], ["u"], "relu"),
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [2]),
        helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", FLOAT, [2])
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph(nodes, "g", inputs, [output], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def set_raw(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def large_constant_in_a_body(model: onnx.ModelProto) -> None:
    body = model.graph.node[2].attribute[0].g
    constant = helper.make_node("Constant", [], ["big"])
    constant.attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(np.arange(5000.0)))
    )
    body.node.insert(0, constant)


def same_output_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].doc_string = "again"


def two_functions_of_an_old_exporter(model: onnx.ModelProto) -> None:
    """Before IR 10, types inside of functions are written down in the main graph."""
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("d", "F", ["a"], ["b"], body, [opset]))
    model.graph.value_info.append(helper.make_tensor_value_info("d::F/b", FLOAT, [2]))


def function_default_without_a_type(model: onnx.ModelProto) -> None:
    two_functions_of_an_old_exporter(model)
    model.functions[0].attribute_proto.add(name="gain", f=2.0)


def output_of_map_type(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(7, tensor))
    model.graph.node.append(helper.make_node("ZipMap", ["u"], ["z"], domain="ai.onnx.ml"))
    model.graph.output.append(helper.make_value_info("z", kind))


def unknown_field(*path: str | int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        part: Any = model
        for step in path:
            part = part[step] if isinstance(step, int) else getattr(part, step)
        part.MergeFromString(b"\xba\xbb\x3f\x02hi")

    change.__name__ = "unknown field of " + (str(path[0]) if path else "the model")
    return change


def info(name: str, *dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, dims)


def trailing_zero(name: str) -> onnx.TensorProto:
    return onnx.TensorProto(name=name, dims=[0], data_type=FLOAT, raw_data=b"")


ODDITIES: dict[str, Change] = {
    "nothing odd": lambda m: None,
    "empty strings that are set": lambda m: m.MergeFrom(
        onnx.ModelProto(producer_name="", domain="", doc_string="", model_version=0)
    ),
    "no ir_version": lambda m: m.ClearField("ir_version"),
    "no opset import": lambda m: m.ClearField("opset_import"),
    "the default domain imported twice": lambda m: m.opset_import.add(domain="ai.onnx", version=9),
    "one domain imported twice": lambda m: m.opset_import.add(domain="", version=9),
    "an import without a domain": lambda m: m.opset_import[0].ClearField("domain"),
    "the default domain by its long name": lambda m: setattr(m.graph.node[0], "domain", "ai.onnx"),
    "a default domain that is set": lambda m: setattr(m.graph.node[0], "domain", ""),
    "a node without a name": lambda m: m.graph.node[0].ClearField("name"),
    "a graph without a name": lambda m: m.graph.ClearField("name"),
    "trailing outputs left out": lambda m: m.graph.node[1].output.extend(["", ""]),
    "trailing inputs left out": lambda m: m.graph.node[1].input.extend([""]),
    "metadata with one key twice": lambda m: m.graph.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=value) for key, value in ("ba", "bc", "ab")
    ),
    "a node's metadata out of order": lambda m: m.graph.node[0].metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value="v") for key in "zay"
    ),
    "an attribute without a type": lambda m: m.graph.node[1].attribute.add(name="alpha", f=0.5),
    "an attribute with two values": lambda m: m.graph.node[1].attribute.add(name="a", type=1, i=5),
    "one attribute twice": lambda m: m.graph.node[1].attribute.extend(
        [helper.make_attribute("a", 1), helper.make_attribute("a", 2)]
    ),
    "an unused initializer": lambda m: m.graph.initializer.append(trailing_zero("spare")),
    "an overridable initializer": lambda m: m.graph.input.append(info("w", 2)),
    "an initializer as output": lambda m: m.graph.output.append(info("w", "n")),
    "an input as output": lambda m: m.graph.output.append(info("x", "other")),
    "one output twice": same_output_twice,
    "types of initializers": lambda m: m.graph.value_info.append(info("w", "n")),
    "types of inputs and outputs": lambda m: m.graph.value_info.extend([info("y"), info("x", 2)]),
    "types of values that are not there": lambda m: m.graph.value_info.extend(
        [info("ghost"), info("u", 2), info("t", None, "k")]
    ),
    "one value described twice": lambda m: m.graph.value_info.extend([info("u", 2), info("u", 3)]),
    "an output without a type": lambda m: m.graph.output[0].ClearField("type"),
    "an output without a shape": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "an output of no element type": lambda m: m.graph.output[0].type.tensor_type.ClearField(
        "elem_type"
    ),
    "a dim of -1": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=-1),
    "a dim of no size": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(),
    "a dim of an empty name": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(
        dim_param=""
    ),
    "a dim that is a formula": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(
        dim_param="2*n + floor(m/3)"
    ),
    "an output of map type": output_of_map_type,
    "a string initializer": lambda m: m.graph.initializer.append(
        helper.make_tensor("text", onnx.TensorProto.STRING, [2], [b"a", b"\xff"])
    ),
    "a packed float tensor": lambda m: m.graph.initializer.append(
        helper.make_tensor("packed", FLOAT, [5000], np.arange(5000.0))
    ),
    "a large weight": lambda m: set_raw(m.graph.initializer[0], np.ones((2, 9000), np.float32)),
    "a large constant in a body": large_constant_in_a_body,
    "an initializer in a body described": lambda m: (
        m.graph.node[2].attribute[0].g.value_info.append(info("c", "n"))
    ),
    "a default of a function without a type": function_default_without_a_type,
    "functions before IR 10": two_functions_of_an_old_exporter,
    "an empty graph": lambda m: m.graph.Clear() or m.graph.SetInParent(),
    "no nodes": lambda m: (m.graph.ClearField("node"), m.graph.ClearField("output")),
    **{
        change.__name__: change
        for change in (
            unknown_field(),
            unknown_field("graph"),
            unknown_field("graph", "node", 0),
            unknown_field("graph", "initializer", 0),
            unknown_field("graph", "input", 0),
            unknown_field("opset_import", 0),
        )
    },
}


def different(a: onnx.ModelProto, b: onnx.ModelProto) -> str:
    """The first lines that differ, for the message of a test."""
    pairs = zip(str(a).splitlines(), str(b).splitlines(), strict=False)
    return next((f"{one!r} became {other!r}" for one, other in pairs if one != other), "the end")


def assert_unchanged(proto: onnx.ModelProto) -> None:
    model = io.load(proto)
    for side in (model, model.clone()):
        again = io.to_proto(side)
        assert again == proto, different(proto, again)
    # Bytes are a stricter measure, and another way through: large data is cut out of them.
    data = proto.SerializeToString(deterministic=True)
    assert io.to_bytes(io.load(data)) == data


@pytest.mark.parametrize("name", ODDITIES)
def test_an_odd_model_comes_out_as_it_went_in(name: str) -> None:
    model = small()
    ODDITIES[name](model)
    before = model.SerializeToString(deterministic=True)
    assert_unchanged(model)
    assert model.SerializeToString(deterministic=True) == before, "the proto given was changed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with every field, on disk with its data file."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "outside.bin").write_bytes(bytes(range(64)))
    path = folder / "model.onnx"
    path.write_bytes(every_field().SerializeToString(deterministic=True))
    return path


def test_the_model_with_every_field_has_every_field() -> None:
    assert fields_of_schema() - set(fields_of(every_field())) == set()


@pytest.mark.parametrize("clone", [False, True])
def test_every_field_of_the_schema_survives(whole: Path, tmp_path: Path, clone: bool) -> None:
    model = io.load(whole)
    io.save(model.clone() if clone else model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == whole.read_bytes()
    assert (tmp_path / "outside.bin").read_bytes() == bytes(range(64))


def test_all_but_a_renamed_node_survives(whole: Path, tmp_path: Path) -> None:
    model = io.load(whole)
    model.graph[3].name = "renamed"
    io.save(model, tmp_path / "model.onnx")
    wanted = onnx.load(whole, load_external_data=False)
    wanted.graph.node[3].name = "renamed"
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False) == wanted


def test_a_rewritten_node_keeps_the_attributes_that_were_not_rewritten(whole: Path) -> None:
    model = io.load(whole)
    node = model.graph[1]
    node.attributes["i"] = ir.AttrInt64("i", 8)
    del node.attributes["sparses"]
    wanted = onnx.load(whole).graph.node[1]
    del wanted.attribute[13]
    wanted.attribute[1].CopyFrom(helper.make_attribute("i", 8))
    assert io.to_proto(model).graph.node[1] == wanted


def test_what_belongs_to_a_deleted_value_goes_with_it() -> None:
    proto = small()
    note = proto.graph.quantization_annotation.add(tensor_name="t")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    proto.graph.value_info.extend([info("ghost", 1), info("u", 2), info("t", 2)])
    model = io.load(proto)
    add, relu, choose = model.graph
    relu.replace_input_with(0, model.graph.inputs[0])
    then = choose.attributes["then_branch"].as_graph()
    then[0].replace_input_with(0, relu.outputs[0])
    model.graph.remove(add, safe=True)
    after = io.to_proto(model).graph
    assert [value.name for value in after.value_info] == ["ghost", "u"]
    assert not after.quantization_annotation


def test_a_value_that_gets_another_shape_is_written_with_it() -> None:
    proto = small()
    proto.graph.value_info.extend([info("u", 2), info("w", 2)])
    model = io.load(proto)
    model.graph[1].outputs[0].shape = ir.Shape([7])
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.ones((1, 2), np.float32))
    weight.shape = ir.Shape([1, 2])
    after = io.to_proto(model).graph
    assert list(after.value_info) == [info("u", 7), info("w", 1, 2)]


def test_nodes_out_of_order_are_put_in_order() -> None:
    proto = small()
    nodes = [proto.graph.node[index] for index in (2, 0, 1)]
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    assert [node.op_type for node in io.load(proto).graph] == ["Add", "Relu", "If"]
    wanted = small()
    assert io.to_proto(io.load(proto)) == wanted


def test_renaming_in_the_model_leaves_the_proto_that_it_came_from_alone() -> None:
    proto = small()
    model = io.load(proto)
    model.graph.initializers["w"].name = "weight"
    assert proto == small()
    assert [tensor.name for tensor in io.to_proto(model).graph.initializer] == ["weight"]


@pytest.mark.parametrize("group", range(8))
def test_no_model_of_the_onnx_suite_changes(group: int) -> None:
    for case in cases()[group::8]:
        _check_case(case)


def _check_case(case: Case) -> None:
    proto = case.model()
    feeds = case.feeds()
    for variant in (proto, frozen(proto, feeds, True)[0], frozen(proto, feeds, False)[0]):
        model = io.load(variant)
        assert io.to_proto(model) == variant, case.name
        assert io.to_bytes(model.clone()) == variant.SerializeToString(), case.name
