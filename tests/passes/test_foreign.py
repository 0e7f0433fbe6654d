"""Foreign passes: what the tools drop comes back, what the user edits arrives."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import IdentityEliminationPass

from onnxopt import io
from onnxopt.errors import BadInput, BadModel, RuleError
from onnxopt.passes import foreign
from onnxopt.passes.base import Context, Pass, PassResult
from onnxopt.passes.foreign import foreign_pass, graphsurgeon_pass

MODELS = Path(__file__).resolve().parents[2] / "models"
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parse(text: str, **tensors: np.ndarray) -> ir.Model:
    """A model from text, with initializers of any element type added."""
    proto = onnx.parser.parse_model(HEAD + text)
    for name, array in tensors.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return io.load(proto)


def stored(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    return {name: value.const_value for name, value in model.graph.initializers.items()}


def run(function, model: ir.Model) -> PassResult:
    return graphsurgeon_pass(function, name="edit").run(model, Context())


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def described_model() -> ir.Model:
    """A model in which every field that graphsurgeon drops holds something."""
    model = parse(
        """
        g (float[N,4] x, float[4] scale = {1, 2, 3, 4}) => (float[N,4] y)
        <float[4] bias = {4, 3, 2, 1}, float[2] unused = {7, 8}>
        { h = Mul(x, scale)  b = Add(h, bias)  y = local.twice <by = 2.0> (b) }
        <domain: "local", opset_import: ["" : 21]>
        twice <by: float = 2.0> (a) => (r)
        { k = Constant <value_float: float = @by> ()  r = Mul(a, k) }
        """
    )
    proto = io.to_proto(model)
    proto.opset_import.add(domain="local", version=1)
    proto.doc_string, proto.domain, proto.model_version = "model doc", "some.where", 7
    graph, function = proto.graph, proto.functions[0]
    shape = graph.input[0].type.tensor_type.shape
    shape.dim[0].denotation, graph.input[0].type.denotation = "DATA_BATCH", "IMAGE"
    graph.value_info.add().CopyFrom(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 4]))
    annotation = graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    owners = [graph, graph.node[0], graph.input[0], graph.value_info[0], function, function.node[0]]
    for number, owner in enumerate(owners):
        owner.doc_string = f"doc {number}"
        owner.metadata_props.add(key="key", value=f"value {number}")
    graph.node[1].name = "add"
    function.attribute_proto[0].doc_string = "attribute doc"
    proto.metadata_props.add(key="labels", value="cat,dog")
    return io.load(proto)


def test_nothing_is_lost_around_a_function_that_only_cleans_up() -> None:
    model = described_model()
    before = io.to_proto(model)
    run(lambda graph: graph.cleanup().toposort(), model)
    assert io.to_proto(model) == before


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_a_real_model_is_the_same_after_a_pass_that_edits_nothing(path: Path) -> None:
    model = io.load(path)
    before = io.to_proto(model)
    assert not run(lambda graph: None, model).changed
    assert io.to_proto(model) == before


def test_a_sparse_constant_survives_being_read_and_sorted() -> None:
    values = numpy_helper.from_array(np.array([3, 5], np.float32), "w")
    places = numpy_helper.from_array(np.array([1, 2]), "w_places")
    proto = onnx.parser.parse_model(HEAD + "g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    model = io.load(proto)
    before = io.to_proto(model)
    seen = []

    def edit(graph: gs.Graph) -> None:
        graph.toposort()
        seen.append(graph.nodes[0].inputs[1].values.tolist())

    run(edit, model)
    assert seen == [[0, 3, 5, 0]]
    assert io.to_proto(model) == before


def test_the_docs_of_untouched_nodes_survive_an_edit_elsewhere() -> None:
    model = described_model()

    def edit(graph: gs.Graph) -> None:
        add = graph.nodes[1]
        add.op = "Sub"

    run(edit, model)
    node = model.graph[0]
    assert (node.doc_string, node.metadata_props) == ("doc 1", {"key": "value 1"})
    assert op_types(model) == ["Mul", "Sub", "twice"]


def test_docs_come_back_when_the_function_returns_another_graph() -> None:
    model = described_model()
    run(lambda graph: graph.copy(), model)
    assert model.graph[0].doc_string == "doc 1"
    assert model.metadata_props == {"labels": "cat,dog"}


def test_a_pass_that_changes_nothing_says_so() -> None:
    result = run(lambda graph: None, described_model())
    assert not result.changed
    assert result.hits == {}


def test_an_edit_is_counted_under_the_name_of_the_pass() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    result = run(lambda graph: setattr(graph.nodes[0], "op", "Abs"), model)
    assert result.changed
    assert result.hits == {"edit": 1}


def test_unused_outputs_keep_the_place_of_the_used_ones() -> None:
    model = parse(
        """
        g (float[3,1,4] x, float[1,8,4] w, float[1,8,2] r) => (float[1,1,2] h)
        { all, h, c = LSTM <hidden_size = 2> (x, w, r) }
        """
    )
    run(lambda graph: graph.cleanup(remove_unused_node_outputs=True), model)
    assert [value.name for value in model.graph[0].outputs] == ["", "h"]


def test_an_unused_output_that_the_operator_must_have_stays() -> None:
    model = parse(
        """
        g (float[4] x, int64[1] k) => (int64[1] i) { v, i = TopK(x, k) }
        """
    )
    run(lambda graph: graph.cleanup(remove_unused_node_outputs=True), model)
    assert [value.name for value in model.graph[0].outputs] == ["v", "i"]


def test_a_long_graph_is_sorted_without_recursion() -> None:
    length = 5000
    body = " ".join(f"v{i} = Relu(v{i - 1})" for i in range(1, length))
    model = parse(f"g (float[2] v0) => (float[2] v{length - 1}) {{ {body} }}")

    def edit(graph: gs.Graph) -> None:
        graph.nodes.reverse()
        graph.toposort()

    run(edit, model)
    assert [node.outputs[0].name for node in model.graph] == [f"v{i}" for i in range(1, length)]


def test_nodes_out_of_order_are_put_in_order() -> None:
    model = parse("g (float[2] x) => (float[2] z) { y = Relu(x)  z = Abs(y) }")
    run(lambda graph: graph.nodes.reverse(), model)
    assert op_types(model) == ["Relu", "Abs"]


def test_a_cycle_is_an_error_of_graphsurgeon() -> None:
    model = parse("g (float[2] x) => (float[2] z) { y = Add(x, x)  z = Abs(y) }")

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[1] = graph.nodes[1].outputs[0]
        graph.toposort()

    with pytest.raises(gs.OnnxGraphSurgeonException, match="cycle"):
        run(edit, model)


def test_folding_keeps_a_float_constant_float() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) { k = Constant <value_float = 0.1> () y = Mul(x, k) }"
    )
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert model.graph.initializers["k"].dtype == ir.DataType.FLOAT


def test_folding_keeps_a_shape_of_some_axes() -> None:
    model = parse(
        """
        g (float[2,3,4] x) => (int64[1] whole, int64[1] part)
        { s = Shape(x)  i = Constant <value_ints = [1]> ()  whole = Gather(s, i)
          t = Shape <start = 1> (x)  part = Gather(t, i) }
        """
    )
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert op_types(model)[-2:] == ["Shape", "Gather"]
    assert stored(model)["whole"].numpy().tolist() == [3]


@pytest.mark.parametrize(
    "node",
    [
        "n = RandomNormal <shape = [2]> ()",
        "n = If (c) <then_branch = t () => (float[2] r) { r = RandomNormal <shape = [2]> () },"
        " else_branch = e () => (float[2] r) { r = RandomNormal <shape = [2]> () }>",
    ],
)
def test_folding_never_freezes_random_numbers(node: str) -> None:
    model = parse(f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ {node}  y = Add(x, n) }}")
    run(lambda graph: graph.fold_constants(flatten_subgraphs=False), model)
    assert "n" not in model.graph.initializers


def test_folding_does_what_it_should() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Neg(a) y = Add(x, b) }"
    )
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert op_types(model) == ["Add"]
    assert list(model.graph.initializers["b"].const_value.numpy()) == [-1, -2]
    assert "a" not in model.graph.initializers


def test_folding_reaches_into_branches() -> None:
    model = parse(
        """
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}>
        { y = If (c) <then_branch = t () => (float[2] p) { n = Neg(w)  p = Add(x, n) },
                      else_branch = e () => (float[2] q) { q = Sub(x, w) }> }
        """
    )
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert [len(graph) for graph in model.graph.subgraphs()] == [1, 1]


@pytest.mark.parametrize("taken", ["Identity(x)", "Identity(w)", "Relu(x)", "Neg(w)"])
def test_folding_inlines_a_branch_whatever_it_gives_out(taken: str) -> None:
    model = parse(
        f"""
        g (float[2] x) => (float[2] z) <bool c = {{1}}, float[2] w = {{1, 2}}>
        {{ y = If (c) <then_branch = t () => (float[2] p) {{ p = {taken} }},
                       else_branch = e () => (float[2] q) {{ q = Neg(x) }}>
           z = Add(y, x) }}
        """
    )
    expected = evaluated(model)
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert "If" not in op_types(model)
    assert evaluated(model) == expected


def evaluated(model: ir.Model) -> list[float]:
    proto = io.to_proto(model)
    onnx.checker.check_model(proto)
    feeds = {"x": np.array([-3, 5], np.float32)}
    return onnx.reference.ReferenceEvaluator(proto).run(None, feeds)[0].tolist()


@pytest.mark.parametrize(
    "dtype",
    [
        ml_dtypes.int4,
        ml_dtypes.uint4,
        ml_dtypes.int2,
        ml_dtypes.uint2,
        ml_dtypes.float4_e2m1fn,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2fnuz,
    ],
)
def test_a_tensor_that_numpy_lacks_survives_being_read(dtype: type) -> None:
    array = np.array([1, 0, 1], dtype)
    model = parse("g () => (float[3] y) { y = Cast <to = 1> (w) }", w=array)
    before = model.graph.initializers["w"].const_value
    run(lambda graph: graph.nodes[0].inputs[0].values.sum() and None, model)
    assert model.graph.initializers["w"].const_value is before


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.float8_e4m3fnuz])
def test_a_new_tensor_that_numpy_lacks_keeps_its_element_type(dtype: type) -> None:
    model = parse("g () => (float[3] y) { y = Cast <to = 1> (w) }", w=np.array([1, 0, 1], dtype))

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[0].values[1] = 1

    run(edit, model)
    tensor = model.graph.initializers["w"].const_value
    assert tensor.numpy().dtype == np.dtype(dtype)
    assert tensor.numpy().tolist() == [1, 1, 1]


def test_folding_leaves_what_graphsurgeon_would_write_wrongly() -> None:
    array = np.array([1, 0, 1], ml_dtypes.float8_e4m3fnuz)
    model = parse("g () => (float[3] y) { y = Cast <to = 1> (w) }", w=array)

    def edit(graph: gs.Graph) -> None:
        assert graph.nodes[0].inputs[0].values.size == 3
        graph.fold_constants()

    run(edit, model)
    assert model.graph.initializers["w"].dtype == ir.DataType.FLOAT8E4M3FNUZ
    assert op_types(model) == ["Cast"]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT8E4M3FN, ir.DataType.INT4])
def test_folding_leaves_what_numpy_would_take_for_bytes(dtype: ir.DataType) -> None:
    model = parse(
        f"""
        g () => (float[2] z) <float[2] w = {{1, 2}}>
        {{ y = Cast <to = {int(dtype)}> (w)  z = Cast <to = 1> (y) }}
        """
    )
    model.graph[0].outputs[0].type = ir.TensorType(dtype)
    run(lambda graph: graph.fold_constants(), model)
    assert op_types(model) == ["Cast", "Cast"]


def test_strings_survive_being_read_and_edited() -> None:
    model = parse("g () => (string[2] y) { y = Identity(w) }", w=np.array(["ab", "cd"], object))

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[0].values[1] = "xyz"

    run(edit, model)
    assert list(model.graph.initializers["w"].const_value.numpy()) == [b"ab", b"xyz"]


def test_new_strings_arrive() -> None:
    model = parse("g (string[2] x) => (string[2] y) { y = Identity(x) }")

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[0] = gs.Constant("w", np.array(["ab", "cd"]))

    run(edit, model)
    assert list(model.graph.initializers["w"].const_value.numpy()) == [b"ab", b"cd"]


def test_a_tensor_attribute_that_was_only_read_is_the_same_object() -> None:
    model = parse("g () => (float[2] y) { y = Constant <value = float[2] {1, 2}> () }")
    before = model.graph[0].attributes["value"]
    run(lambda graph: graph.nodes[0].attrs["value"].values.sum() and None, model)
    assert model.graph[0].attributes["value"] is before


def test_overloads_of_a_function_stay_apart() -> None:
    proto = io.to_proto(described_model())
    other = proto.functions.add()
    other.CopyFrom(proto.functions[0])
    other.overload = proto.graph.node[2].overload = "second"
    other.node[1].op_type = "Div"
    model = io.load(proto)
    run(lambda graph: graph.cleanup().toposort(), model)
    assert io.to_proto(model) == io.to_proto(io.load(proto))


def branches(reads_then: str, reads_else: str) -> ir.Model:
    return parse(
        f"""
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {{1, 2}}>
        {{ y = If (c) <then_branch = t () => (float[2] p) {{ p = Add(x, {reads_then}) }},
                       else_branch = e () => (float[2] q) {{ q = Sub(x, {reads_else}) }}> }}
        """
    )


def test_an_outer_constant_read_only_in_branches_is_not_copied_into_them() -> None:
    model = branches("w", "w")

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].attrs["then_branch"].nodes[0].op = "Mul"

    run(edit, model)
    held = [list(graph.initializers) for graph in (model.graph, *model.graph.subgraphs())]
    assert held == [["w"], [], []]


def test_an_outer_constant_read_in_one_branch_only_stays_outside() -> None:
    model = branches("w", "x")
    result = run(lambda graph: None, model)
    assert list(model.graph.initializers) == ["w"]
    assert not result.changed


def test_a_new_constant_goes_where_all_its_readers_see_it() -> None:
    model = branches("x", "x")

    def edit(graph: gs.Graph) -> None:
        shared = gs.Constant("shared", np.ones(2, np.float32))
        alone = gs.Constant("alone", np.ones(2, np.float32))
        then_branch, else_branch = graph.nodes[0].attrs.values()
        then_branch.nodes[0].inputs = [shared, alone]
        else_branch.nodes[0].inputs[1] = shared

    run(edit, model)
    held = {graph.name: list(graph.initializers) for graph in model.graphs()}
    assert held == {"g": ["w", "shared"], "t": ["alone"], "e": []}


def external_model(folder) -> ir.Model:
    model = parse(
        "g (float[2] x) => (float[2] y) { h = Add(x, w)  y = Mul(h, v) }",
        w=np.array([1, 2], np.float32),
        v=np.array([3, 4], np.float32),
    )
    ir.save(model, folder / "model.onnx", external_data="model.data", size_threshold_bytes=0)
    return io.load(folder / "model.onnx")


def test_external_data_is_not_read_unless_the_function_reads_it(tmp_path) -> None:
    model = external_model(tmp_path)
    (tmp_path / "model.data").unlink()
    before = stored(model)
    run(lambda graph: setattr(graph.nodes[0], "op", "Sub"), model)
    assert stored(model)["w"] is before["w"]
    assert stored(model)["v"] is before["v"]


def test_external_data_that_was_only_read_stays_external(tmp_path) -> None:
    model = external_model(tmp_path)
    before, seen = stored(model), []
    run(lambda graph: seen.append(graph.nodes[0].inputs[1].values.tolist()), model)
    assert seen == [[1, 2]]
    assert stored(model)["w"] is before["w"]


def test_an_edited_weight_is_taken_over_and_its_neighbour_kept(tmp_path) -> None:
    model = external_model(tmp_path)

    before = stored(model)

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[1].values *= 2

    run(edit, model)
    assert stored(model)["w"].numpy().tolist() == [2, 4]
    assert stored(model)["v"] is before["v"]


def overridable_model(ir_version: int) -> ir.Model:
    model = parse(
        "g (float[2] x, float[2] w = {1, 2}, float[2] z) => (float[2] y)"
        " { n = Neg(w)  h = Add(x, n)  y = Add(h, z) }"
    )
    proto = io.to_proto(model)
    proto.ir_version = ir_version
    proto.opset_import[0].version = 8
    return io.load(proto)


def test_a_default_that_a_caller_may_override_is_never_folded() -> None:
    model = overridable_model(8)
    result = run(lambda graph: graph.fold_constants().cleanup(), model)
    assert op_types(model) == ["Neg", "Add", "Add"]
    assert [value.name for value in model.graph.inputs] == ["x", "w", "z"]
    assert model.graph.initializers["w"].const_value.numpy().tolist() == [1, 2]
    assert "--freeze-inputs" in result.notes[0]


def test_reading_such_a_default_is_an_error_with_a_way_out() -> None:
    with pytest.raises(BadInput, match="only a default"):
        run(lambda graph: graph.nodes[0].inputs[0].values, overridable_model(8))


def test_below_ir_4_a_listed_initializer_is_a_constant_and_new_ones_are_nodes() -> None:
    model = overridable_model(3)
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert op_types(model) == ["Constant", "Add", "Add"]
    assert [value.name for value in model.graph.inputs] == ["x", "w", "z"]
    onnx.checker.check_model(io.to_proto(model))


@pytest.mark.parametrize("kind", ["graphsurgeon", "onnx"])
def test_raising_the_ir_version_makes_no_inputs_of_constants(kind: str) -> None:
    def raise_versions(it) -> None:
        it.ir_version = 8
        (it.opset_import if kind == "onnx" else it.import_domains)[0].version = 9

    model = overridable_model(3)
    foreign_pass(raise_versions, kind=kind).run(model, Context())
    assert model.ir_version == 8
    assert [value.name for value in model.graph.inputs] == ["x", "z"]
    assert list(model.graph.initializers) == ["w"]


def test_a_constant_that_the_graph_gives_out_keeps_its_declaration() -> None:
    model = parse("g (float[1] x) => (float[N] y) <float[2] a = {1, 2}> { y = Neg(a) }")
    run(lambda graph: graph.fold_constants().cleanup(), model)
    assert op_types(model) == []
    assert model.graph.outputs[0].shape == ["N"]
    assert stored(model)["y"].numpy().tolist() == [-1, -2]


def test_a_new_layer_with_constants_and_attributes_arrives() -> None:
    model = parse("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }")

    def edit(graph: gs.Graph) -> gs.Graph:
        relu = graph.nodes[0]
        weights = gs.Constant("weights", np.eye(3, dtype=np.float32))
        made = gs.Variable("made", np.float32, [1, 3])
        attributes = {"transB": 1, "alpha": 0.5}
        graph.nodes.insert(0, gs.Node("Gemm", "new", attributes, [relu.inputs[0], weights], [made]))
        relu.inputs = [made]
        return graph

    run(edit, model)
    gemm = model.graph[0]
    assert (gemm.name, gemm.attributes["transB"].value) == ("new", 1)
    assert gemm.attributes["alpha"].value == 0.5
    assert gemm.outputs[0].shape == [1, 3]
    onnx.checker.check_model(io.to_proto(model), full_check=True)


def test_an_integer_put_into_a_float_attribute_stays_a_float() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Elu <alpha = 0.5> (x) }")

    def edit(graph: gs.Graph) -> None:
        graph.nodes[0].attrs["alpha"] = 2

    run(edit, model)
    assert model.graph[0].attributes["alpha"].type == ir.AttributeType.FLOAT


def test_an_attribute_of_no_known_kind_is_named() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(BadModel, match="'odd'"):
        run(lambda graph: graph.nodes[0].attrs.update(odd=object()), model)


def test_a_constant_folded_in_a_local_function_becomes_a_node_of_it() -> None:
    model = parse(
        """
        g (float[1] x) => (float[1] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]>
        f (a) => (r) { k = Constant <value_floats = [2.0]> ()  n = Neg(k)  r = Mul(a, n) }
        """
    )
    run(lambda graph: graph.fold_constants().cleanup(), model)
    function = model.functions["local", "f", ""]
    assert [node.op_type for node in function] == ["Constant", "Mul"]
    assert function[0].attributes["value"].value.numpy().tolist() == [-2]


def test_a_value_made_twice_is_an_error_that_says_what_to_do() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")

    def edit(graph: gs.Graph) -> None:
        old = graph.nodes[0]
        graph.nodes.append(gs.Node("Abs", inputs=list(old.inputs), outputs=list(old.outputs)))

    with pytest.raises(BadModel, match="'y' is made twice") as caught:
        run(edit, model)
    assert "outputs.clear()" in caught.value.hint


def test_two_different_constants_of_one_name_are_an_error() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Sum(x, x, x) }")

    def edit(graph: gs.Graph) -> None:
        for place, number in ((1, 1), (2, 2)):
            graph.nodes[0].inputs[place] = gs.Constant("k", np.full(2, number, np.float32))

    with pytest.raises(BadModel, match="'k'"):
        run(edit, model)


def test_a_function_that_returns_no_graph_is_an_error() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(RuleError, match="returned a int"):
        run(lambda graph: 3, model)


def test_what_a_function_prints_stays_off_standard_output(capsys) -> None:
    run(lambda graph: print("hello"), parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


def test_the_decorator_works_with_and_without_options() -> None:
    @graphsurgeon_pass
    def plain(graph: gs.Graph) -> None: ...

    @graphsurgeon_pass(name="other name")
    def named(graph: gs.Graph) -> int:
        return 5

    assert isinstance(plain, Pass)
    assert (plain.name, named.name) == ("plain", "other name")
    assert named(None) == 5


class DropIdentity(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return IdentityEliminationPass()(model)


def test_an_onnx_ir_pass_runs_in_place() -> None:
    model = parse("g (float[2] x) => (float[2] y) { h = Identity(x)  y = Relu(h) }")
    result = foreign_pass(DropIdentity).run(model, Context())
    assert result.changed
    assert result.hits == {"DropIdentity": 1}
    assert op_types(model) == ["Relu"]


def test_a_functional_onnx_ir_pass_leaves_its_result_in_the_model() -> None:
    model = parse("g (float[2] x) => (float[2] y) { h = Identity(x)  y = Relu(h) }")
    functional = ir.passes.functionalize(DropIdentity())
    foreign_pass(functional).run(model, Context())
    assert op_types(model) == ["Relu"]


class RuleSet:
    """As onnxscript's: gives the number of rewrites."""

    def apply_to_model(self, model: ir.Model) -> int:
        old = model.graph[0]
        new = ir.node("Relu", [old.inputs[0]], num_outputs=1)
        new.outputs[0].name = "y"
        ir.convenience.replace_nodes_and_values(
            model.graph, old, [old], [new], old.outputs, new.outputs
        )
        return 2


def test_a_rewrite_rule_set_counts_its_rewrites_and_loses_no_metadata() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph[0].metadata_props["key"] = "value"
    result = foreign_pass(RuleSet()).run(model, Context())
    assert result.hits == {"RuleSet": 2}
    assert model.graph[0].metadata_props == {"key": "value"}


def through_proto(function, model: ir.Model) -> PassResult:
    return foreign_pass(function, "tool", kind="onnx").run(model, Context())


def strip(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What a careless tool gives back: names, docs, metadata gone, versions raised."""
    result = helper.make_model(proto.graph, opset_imports=list(proto.opset_import))
    result.functions.extend(proto.functions)
    result.ir_version, result.producer_name = 11, "tool"
    result.graph.input[0].type.ClearField("denotation")
    result.graph.input[0].type.tensor_type.shape.dim[0].ClearField("denotation")
    result.functions[0].attribute_proto[0].ClearField("doc_string")
    for node in result.graph.node:
        node.name = node.doc_string = ""
        node.ClearField("metadata_props")
    result.graph.ClearField("doc_string")
    result.graph.ClearField("quantization_annotation")
    return result


def test_what_a_proto_tool_drops_comes_back() -> None:
    model = described_model()
    before = io.to_proto(model)
    result = through_proto(strip, model)
    assert io.to_proto(model) == before
    assert not result.changed


def test_a_proto_tool_does_not_see_defaults_that_a_caller_may_override() -> None:
    seen = []
    model = overridable_model(8)
    through_proto(lambda proto: seen.extend(t.name for t in proto.graph.initializer), model)
    assert seen == []
    assert model.graph.initializers["w"].const_value.numpy().tolist() == [1, 2]


def test_an_input_that_a_proto_tool_took_for_a_constant_and_removed_comes_back() -> None:
    def remove(proto: onnx.ModelProto) -> None:
        del proto.graph.input[1], proto.graph.initializer[:], proto.graph.node[0]
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "n"))

    model = overridable_model(3)
    through_proto(remove, model)
    assert [value.name for value in model.graph.inputs] == ["x", "w", "z"]
    assert op_types(model) == ["Constant", "Add", "Add"]
    onnx.checker.check_model(io.to_proto(model))


def test_tensors_that_a_proto_tool_left_alone_stay_external(tmp_path) -> None:
    model = external_model(tmp_path)

    def edit(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[0].raw_data = np.array([5, 6], np.float32).tobytes()

    before = stored(model)
    through_proto(edit, model)
    assert stored(model)["w"].numpy().tolist() == [5, 6]
    assert stored(model)["v"] is before["v"]


def test_a_tool_that_distrusts_its_own_result_changes_nothing() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")

    def simplify(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        proto.graph.node[0].op_type = "Abs"
        return proto, False

    result = through_proto(simplify, model)
    assert not result.changed
    assert "own check" in result.refusals[0].reason
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize("tool", ["onnxsim:simplify", "onnxslim:slim"])
def test_a_well_known_tool_runs_as_it_is(tool: str) -> None:
    pytest.importorskip(tool.partition(":")[0])
    model = parse("g (float[2] x) => (float[2] y) { h = Identity(x)  i = Relu(h)  y = Abs(i) }")
    adapted = foreign.load_pass(tool)
    assert isinstance(adapted, foreign.ProtoPass)
    adapted.run(model, Context())
    assert op_types(model) == ["Relu", "Abs"]


def test_what_a_function_takes_is_read_from_its_annotation() -> None:
    def on_proto(model: onnx.ModelProto) -> None: ...
    def on_ir(model: ir.Model) -> None: ...
    def on_graph(graph: gs.Graph) -> None: ...
    def on_anything(it) -> None: ...

    kinds = [type(foreign_pass(f)) for f in (on_proto, on_ir, on_graph, on_anything)]
    expected = [foreign.ProtoPass, foreign.IrPass, *[foreign.GraphsurgeonPass] * 2]
    assert kinds == expected


def test_a_pass_of_ours_comes_back_as_it_is() -> None:
    made = graphsurgeon_pass(lambda graph: None, name="mine")
    assert foreign_pass(made) is made


def test_something_that_is_no_pass_is_refused_with_what_would_be_one() -> None:
    with pytest.raises(RuleError, match="a int is not a pass") as caught:
        foreign_pass(3)
    assert "graphsurgeon" in caught.value.hint


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.setattr("sys.modules", dict(__import__("sys").modules))

    def write(text: str) -> None:
        (tmp_path / "my_passes.py").write_text(text)

    return write


def test_a_plain_function_in_the_working_directory_is_a_graphsurgeon_pass(module) -> None:
    module("def drop(graph):\n    graph.nodes[0].op = 'Abs'\n")
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    loaded = foreign.load_pass("my_passes:drop")
    loaded.run(model, Context())
    assert loaded.name == "drop"
    assert op_types(model) == ["Abs"]


def test_a_file_can_be_named_by_its_path(module) -> None:
    module("def drop(graph): pass\n")
    assert foreign.load_pass("./my_passes.py:drop").name == "drop"


@pytest.mark.parametrize(
    ("spec", "kind", "message", "hint"),
    [
        ("my_passes", BadInput, "does not name a pass", "module:function"),
        ("no_such_module:f", BadInput, "no module", "no_such_module.py"),
        ("no_such.py:f", BadInput, "no file", "path"),
        ("my_passes:dorp", BadInput, "has no 'dorp'", "my_passes:drop"),
        ("my_passes:NUMBER", RuleError, "not a pass", "graphsurgeon"),
        ("my_passes:Needy", RuleError, "without arguments", "instance"),
        ("broken:f", RuleError, "ZeroDivisionError", "import it"),
        ("lacking:f", RuleError, "no_such_dependency", "import it"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(module, spec, kind, message, hint) -> None:
    module("NUMBER = 3\ndef drop(graph): pass\nclass Needy:\n    def __init__(self, a): pass\n")
    for name, text in (("broken", "1 / 0"), ("lacking", "import no_such_dependency")):
        with open(f"{name}.py", "w") as file:
            file.write(text)
    with pytest.raises(kind, match=message) as caught:
        foreign.load_pass(spec)
    assert hint in caught.value.hint
