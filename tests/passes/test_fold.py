"""What folding computes, where it puts the result, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from casefile import parse
from folding import constants, fold, ops_of, same_answers

from onnxopt.config import Exactness, Options
from onnxopt.passes import fold_plan
from onnxopt.passes.base import Context
from onnxopt.passes.fold import FoldPass, freeze_inputs

X = {"x": np.float32([[1, -2, 3, 4], [5, 6, 7, 8]])}


def test_a_region_becomes_one_constant_with_the_old_name() -> None:
    text = """g (float[2,4] x) => (float[2,4] y) <float[4] w = {1, 4, 9, 16}, float one = {1}>
    { a = Sqrt(w) b = Add(a, one) y = Mul(x, b) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"Mul": 1} and result.hits == {"Add": 1, "Sqrt": 1}
    np.testing.assert_array_equal(constants(folded)["b"], np.float32([2, 3, 4, 5]))
    assert list(constants(folded)) == ["b"]
    same_answers(text, folded, X)


def test_a_second_run_changes_nothing() -> None:
    text = """g (float[n,4] x) => (float y) <int64 zero = {0}, float[4] w = {1, 2, 3, 4}>
    { s = Shape(x) n = Gather(s, zero) f = Cast<to = 1>(n) e = Exp(w) r = ReduceMax(e)
      y = Add(f, r) }"""
    once, first = fold(text)
    twice, second = fold(once)
    assert first.changed and not second.changed
    assert once.SerializeToString() == twice.SerializeToString()


def test_the_shape_of_a_dynamic_tensor_is_known_where_its_dims_are() -> None:
    text = """g (float[n,4] x) => (int64 c, int64 n) <int64 zero = {0}, int64 one = {1}>
    { s = Shape(x) c = Gather(s, one) n = Gather(s, zero) }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Gather": 1, "Shape": 1}
    same_answers(text, folded, X)


@pytest.mark.parametrize(
    ("left", "right"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (0, 5), (6, 3), (-8, 3)]
)
def test_integer_arithmetic_is_that_of_the_runtime(left: int, right: int) -> None:
    text = f"""g () => (int64 q, int64 m, int64 f, int64 s, bool l)
    <int64 a = {{{left}}}, int64 b = {{{right}}}>
    {{ q = Div(a, b) m = Mod(a, b) f = Mod<fmod = 1>(a, b) s = Sub(a, b) l = Less(a, b) }}"""
    folded, result = fold(text)
    assert not ops_of(folded) and sum(result.hits.values()) == 5
    same_answers(text, folded)


def test_numbers_that_overflow_wrap_as_in_the_runtime() -> None:
    text = """g () => (int64 y, int32 z) <int64 a = {9223372036854775807}, int64 b = {2}>
    { y = Mul(a, b) z = Cast<to = 6>(a) }"""
    folded, _ = fold(text)
    assert not ops_of(folded)
    same_answers(text, folded)


@pytest.mark.parametrize(("left", "right"), [(1, 0), (-(2**63), -1)])
@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_a_division_that_stops_the_process_is_left_alone(
    operator: str, left: int, right: int
) -> None:
    text = f"""g () => (int64 y) <int64[1] a = {{{left}}}, int64 b = {{{right}}}>
    {{ y = {operator}(a, b) }}"""
    model = ir.from_proto(parse(text))
    FoldPass().run(model, Context(Options(), 1000))
    assert [node.op_type for node in model.graph] in ([operator], [])
    if operator == "Div":
        assert len(list(model.graph)) == 1


@pytest.mark.parametrize(
    "node",
    [
        "RandomNormalLike(w)",
        "Bernoulli(w)",
        "Multinomial(w)",
        "custom.Op(w)",
        "QuantizeLinear(w, scale)",
    ],
)
def test_what_is_random_custom_or_quantized_stays(node: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21, "custom" : 1]>
    g () => (y) <float[1,2] w = {{0.5, 0.25}}, float scale = {{1}}> {{ y = {node} }}"""
    folded, result = fold(text)
    assert folded.graph.node[0].op_type == parse(text).graph.node[0].op_type
    assert not result.changed


def test_the_weight_behind_a_dequantization_stays_as_it_is_stored() -> None:
    text = """g (float[2,2] x) => (float[2,2] y) <int8[2,2] w = {1, 2, 3, 4}, float s = {0.5}>
    { d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"DequantizeLinear": 1, "MatMul": 1, "Transpose": 1}
    assert not result.changed


@pytest.mark.parametrize("node", ["Dropout(w, ratio, on)", "BatchNormalization<training_mode=1>"])
def test_layers_in_training_mode_stay(node: str) -> None:
    if node.startswith("Batch"):
        node = "BatchNormalization<training_mode = 1>(w, one, one, one, one)"
    text = f"""g () => (float[1,1] y) <float[1,1] w = {{2}}, float ratio = {{0.5}}, bool on = {{1}},
    float[1] one = {{1}}> {{ y = {node} }}"""
    _, result = fold(text)
    assert not result.changed


def test_a_result_that_is_no_tensor_stays_but_may_be_passed_on_the_way() -> None:
    body = "s = SequenceConstruct(w, w) y = SequenceAt(s, zero) }"
    held = "<float[2] w = {1, 2}, int64 zero = {0}> {"
    assert not ops_of(fold(f"g () => (float[2] y) {held} {body}")[0])
    folded, result = fold(f"g () => (seq(float[2]) s, float[2] y) {held} {body}")
    assert ops_of(folded) == {"SequenceAt": 1, "SequenceConstruct": 1} and not result.changed


def test_strings_stay() -> None:
    text = """g () => (string[1] y) <string[1] a = {"x"}, string[1] b = {"z"}>
    { y = StringConcat(a, b) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"StringConcat": 1} and not result.changed


def test_a_node_without_a_kernel_is_refused_and_the_rest_folds() -> None:
    text = """g () => (float[2] y, double[1,1,1,1] z)
    <float[2] w = {1, 2}, double[1,1,2,2] i = {1, 2, 3, 4}, double[1,1,2,2] k = {1, 2, 3, 4}>
    { e = Exp(w) s = Exp(i) c = Conv(s, k) z = Neg(c) y = Neg(e) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"Conv": 1, "Neg": 1} and result.hits == {"Exp": 2, "Neg": 1}
    (refusal,) = result.refusals
    assert "implementation" in refusal.reason


def big(nodes: str, **options: float) -> tuple[onnx.ModelProto, object]:
    return fold(f"g (float[4] x) => (y) <int64[2] s = {{300, 100}}> {{ {nodes} }}", **options)


def test_growth_beyond_the_budget_is_refused_with_its_size() -> None:
    folded, result = big("w = ConstantOfShape(s) y = Relu(w)")
    assert ops_of(folded)["ConstantOfShape"] == 1
    assert "120 kB" in result.refusals[0].reason and "--max-growth" in result.refusals[0].reason


def test_what_is_big_only_on_the_way_folds() -> None:
    folded, _ = big("w = ConstantOfShape(s) r = ReduceMax<keepdims = 0>(w) y = Add(x, r)")
    assert ops_of(folded) == {"Add": 1}


def test_the_size_of_a_tensor_nobody_could_hold_is_known() -> None:
    text = """g () => (int64 y) <int64[2] s = {100000000, 100}>
    { t = ConstantOfShape(s) y = Size(t) }"""
    folded, result = fold(text)
    assert not ops_of(folded) and not result.refusals
    assert constants(folded)["y"] == 10_000_000_000


def test_the_inside_of_a_refused_region_folds() -> None:
    text = """g () => (float[300,100] y) <int64[1] a = {300}, int64[1] b = {100}>
    { s = Concat<axis = 0>(a, b) y = ConstantOfShape(s) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"ConstantOfShape": 1} and result.hits == {"Concat": 1}


def test_a_weight_that_takes_the_place_of_another_adds_nothing() -> None:
    weight = onnx.numpy_helper.from_array(np.ones((300, 100), np.float32), "w")
    model = parse("g (float[2,100] x) => (float[2,300] y) { t = Transpose(w) y = MatMul(x, t) }")
    model.graph.initializer.append(weight)
    folded, result = fold(model, max_growth=0.0)
    assert ops_of(folded) == {"MatMul": 1} and result.exactness is Exactness.CLOSE
    shared = parse("g (float[2,100] x) => (y, v) { t = Transpose(w) y = MatMul(x, t) v = Neg(w) }")
    shared.graph.initializer.append(weight)
    shared.graph.node[2].input[0] = "x"
    shared.graph.node.add(op_type="MatMul", input=["y", "w"], output=["u"])
    shared.graph.output.add(name="u")
    assert ops_of(fold(shared, max_growth=0.0)[0])["Transpose"] == 1


def test_the_budget_is_for_all_runs_together() -> None:
    model = ir.from_proto(
        parse(
            """g () => (float[200] y, float[200] z) <int64[1] a = {200}>
        { y = ConstantOfShape(a) z = Expand(one, a) }""".replace("<", "<float one = {1}, ")
        )
    )
    context = Context(Options(), 1000)
    FoldPass().run(model, context)
    left = [node.op_type for node in model.graph]
    FoldPass().run(model, context)
    assert [node.op_type for node in model.graph] == left and len(left) == 1


def test_too_much_memory_or_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """g () => (float y) <int64[2] s = {300, 300}>
    { w = ConstantOfShape(s) m = MatMul(w, w) y = ReduceMax<keepdims = 0>(m) }"""
    monkeypatch.setattr(fold_plan, "MOST_BYTES", 1000)
    assert "of memory" in fold(text)[1].refusals[0].reason
    monkeypatch.undo()
    monkeypatch.setattr(fold_plan, "MOST_WORK", 1000)
    assert "too long" in fold(text)[1].refusals[0].reason


OLD = """<ir_version: {ir}, opset_import: ["" : 9]>
g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 4}}>
{{ s = Sqrt(w) y = Add(x, s) }}"""


def test_below_ir_4_listed_initializers_are_constants_and_results_are_nodes() -> None:
    folded, _ = fold(OLD.format(ir=3))
    assert [node.op_type for node in folded.graph.node] == ["Constant", "Add"]
    assert [info.name for info in folded.graph.input] == ["x"]
    onnx.checker.check_model(folded)


def test_from_ir_4_they_may_be_overridden_and_the_notes_say_what_freezing_brings() -> None:
    folded, result = fold(OLD.format(ir=4))
    assert ops_of(folded) == {"Add": 1, "Sqrt": 1} and not result.changed
    assert "--freeze-inputs" in result.notes[0] and "1 more nodes fold" in result.notes[0]


def test_frozen_inputs_are_constants_and_inputs_no_longer() -> None:
    folded, result = fold(OLD.format(ir=4), freeze_inputs=True)
    assert ops_of(folded) == {"Add": 1} and result.hits["frozen input"] == 1
    assert [info.name for info in folded.graph.input] == ["x"] and not result.notes
    assert freeze_inputs(ir.from_proto(parse(OLD.format(ir=3)))) == 0


def test_a_constant_a_node_of_the_opset_cannot_hold_stays_computed() -> None:
    text = """<ir_version: 3, opset_import: ["" : 8]>
    g (float[6] x, int64[3] s, int64[1] t) => (float[2,3] y) <int64[3] s = {1, 2, 3},
    int64[1] t = {-1}> { r = Slice<axes = [0], starts = [1], ends = [3]>(s) y = Reshape(x, r) }"""
    folded, result = fold(text)
    assert ops_of(folded) == {"Reshape": 1, "Slice": 1} and not result.changed


def test_functions_fold_into_constant_nodes() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[2] x) => (float[2] y) { y = own.f(x) }
    <domain: "own", opset_import: ["" : 21]>
    f (a) => (b) { w = Constant<value = float[2] {1.0, 4.0}>() s = Sqrt(w) b = Add(a, s) }"""
    folded, _ = fold(text)
    assert [node.op_type for node in folded.functions[0].node] == ["Constant", "Add"]
    same_answers(text, folded, {"x": np.float32([1, 2])})


def test_a_function_that_draws_random_numbers_is_not_folded() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g () => (float[2] y) <float[2] w = {1, 2}> { y = own.f(w) }
    <domain: "own", opset_import: ["" : 21]> f (a) => (b) { b = RandomNormalLike(a) }"""
    assert ops_of(fold(text)[0]) == {"RandomNormalLike": 1, "f": 1}


def test_bodies_fold_too() -> None:
    text = """g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 4}> {
    y = If(c) <then_branch = a () => (float[2] p) { s = Sqrt(w) p = Add(x, s) },
               else_branch = b () => (float[2] q) { q = Exp(w) }> }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Add": 1, "If": 1}
    for condition in (True, False):
        same_answers(text, folded, {"x": np.float32([1, 2]), "c": np.array(condition)})


def test_what_a_body_and_its_surroundings_share_is_computed_once() -> None:
    text = """g (float[2] x, bool c) => (float[2] y, float[2] z) <float[2] w = {1, 4}> {
    s = Sqrt(w) z = Mul(x, s)
    y = If(c) <then_branch = a () => (float[2] p) { p = Add(x, s) },
               else_branch = b () => (float[2] q) { q = Sub(x, s) }> }"""
    folded, _ = fold(text)
    assert list(constants(folded)) == ["s"] and "Sqrt" not in ops_of(folded)
    same_answers(text, folded, {"x": np.float32([1, 2]), "c": np.array(True)})


def test_constant_outputs_keep_their_names_and_declarations() -> None:
    text = """g (float[2] x) => (float[2] y, float[n] z) <float[2] w = {1, 4}>
    { y = Relu(x) z = Sqrt(w) }"""
    folded, _ = fold(text)
    assert list(folded.graph.output) == list(parse(text).graph.output)
    same_answers(text, folded, {"x": np.float32([1, 2])})


def test_metadata_of_a_folded_value_is_kept() -> None:
    proto = parse("g (float[2] x) => (y) <float[2] w = {1, 4}> { s = Sqrt(w) y = Add(x, s) }")
    model = ir.from_proto(proto)
    model.graph.node(0).outputs[0].metadata_props["made by"] = "hand"
    FoldPass().run(model, Context(Options(), 1000))
    assert model.graph.initializers["s"].metadata_props == {"made by": "hand"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "uint8", "int4", "bool"])
def test_elements_are_moved_about_in_every_dtype(dtype: str) -> None:
    kind = onnx.TensorProto.DataType.Value(dtype.upper())
    data = np.arange(6).reshape(2, 3) % 2
    model = parse("g (int64 i) => (y, j) { t = Transpose(w) y = Identity(t) j = Neg(i) }")
    model.graph.initializer.append(onnx.helper.make_tensor("w", kind, [2, 3], data.ravel()))
    model.graph.output[0].type.tensor_type.elem_type = kind
    folded, _ = fold(model)
    assert ops_of(folded) == {"Neg": 1}
    (tensor,) = folded.graph.initializer
    assert tensor.data_type == kind and list(tensor.dims) == [3, 2]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(int), data.T)


def test_a_big_transposed_weight_is_turned_only_when_it_is_read() -> None:
    weight = np.arange(600 * 500, dtype=np.float32).reshape(600, 500)
    model = parse("g (float[2,500] x) => (float[2,600] y) { t = Transpose(w) y = MatMul(x, t) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    loaded = ir.from_proto(model)
    FoldPass().run(loaded, Context(Options(), 1000))
    (value,) = loaded.graph.initializers.values()
    assert isinstance(value.const_value, ir.LazyTensor)
    np.testing.assert_array_equal(value.const_value.numpy(), weight.T)
