"""A plan puts pairs where the runtime looks for them, and applying it keeps the function."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import parse

from onnxopt import registry
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize.insert import insert, nearest_codes
from onnxopt.quantize.plan import grid_of, make_plan
from onnxopt.quantize.records import Grid, QuantPlan, Range

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> str:
    size = int(np.prod(shape))
    numbers = ",".join(f"{value:.4f}" for value in RANDOM.standard_normal(size) * 0.3)
    return f"float[{','.join(map(str, shape))}] {{name}} = {{{{{numbers}}}}}"


def weight(name: str, *shape: int) -> str:
    return floats(*shape).format(name=name)


RESIDUAL = f"""
g (float[1,8,6,6] x) => (float[1,4] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)}, {weight("b2", 8)},
  {weight("w3", 8, 4)}, {weight("b3", 4)}, int64[2] s = {{0, -1}}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] c = Conv(b, w2, b2)
   [sum] d = Add(b, c) [pool] e = GlobalAveragePool(d) [flat] f = Reshape(e, s)
   [out] y = Gemm(f, w3, b3) }}"""


def prepared(text: str) -> ir.Model:
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    return model


def run(model: onnx.ModelProto, feeds: dict[str, Any], level: Any = None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)[0]


def ranges_of(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Range]:
    """Every activation's range on one feed."""
    proto = ir.to_proto(model)
    names = [value.name or "" for node in model.graph for value in node.outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(proto.SerializeToString())
    found = dict(zip(names, session.run(None, feeds), strict=True)) | feeds
    return {name: Range(float(a.min()), float(a.max())) for name, a in found.items()}


def quantized(text: str, **keywords: Any) -> tuple[onnx.ModelProto, QuantPlan, Any, Any]:
    model = prepared(text)
    feeds = {"x": RANDOM.standard_normal((1, 8, 6, 6)).astype(np.float32)}
    plan = make_plan(model, ranges_of(model, feeds), registry.quant_specs(), **keywords)
    wanted = run(ir.to_proto(model), feeds)
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, plan, feeds, wanted


def test_a_residual_network_runs_in_integers_throughout(tmp_path: Any) -> None:
    proto, _, feeds, wanted = quantized(RESIDUAL)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(proto.SerializeToString(), options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    kernels = ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm")
    assert [found[kernel] for kernel in kernels] == [2, 1, 1, 1]
    assert not {"Conv", "Relu", "Add", "Gemm"} & set(found)
    noise = run(proto, feeds) - wanted
    assert 10 * np.log10(np.sum(wanted**2) / np.sum(noise**2)) > 20


def test_the_interface_and_names_of_values_stay() -> None:
    proto, _, _, _ = quantized(RESIDUAL)
    original = parse(RESIDUAL)
    assert proto.graph.input == original.graph.input
    assert proto.graph.output == original.graph.output


def test_each_left_out_node_has_a_reason() -> None:
    _, plan, _, _ = quantized(RESIDUAL, keep_float=frozenset({"c2"}))
    choices = {choice.node: choice for choice in plan.nodes}
    assert choices["c2"].reason == "it was asked to stay float"
    assert choices["sum"].reason == "no integer node stands before it, or behind it"
    assert not choices["sum"].quantize and choices["c1"].quantize
    assert all(choice.reason for choice in plan.nodes)


def test_a_plan_survives_a_round_trip_and_an_edit_that_makes_no_sense_is_refused() -> None:
    _, plan, _, _ = quantized(RESIDUAL)
    assert QuantPlan.from_json(plan.to_json()) == plan
    with pytest.raises(BadInput, match="can't be read"):
        QuantPlan.from_json(plan.to_json().replace('"quantize": true', '"quantize": "yes"', 1))
    with pytest.raises(BadInput, match="can't be read"):
        QuantPlan.from_json("{}")


def test_a_plan_for_another_model_is_refused() -> None:
    _, plan, _, _ = quantized(RESIDUAL)
    other = prepared("g (float[1,8,6,6] x) => (float[1,8,6,6] y) { [n] y = Relu(x) }")
    with pytest.raises(BadInput, match="the plan names the node"):
        insert(other, plan, registry.quant_specs())


@pytest.mark.parametrize(
    ("found", "dtype", "grid"),
    [
        (Range(0.0, 255.0), "uint8", Grid(1.0, 0)),
        (Range(-127.0, 10.0), "int8", Grid(1.0, 0, "int8")),
        (Range(1.0, 2.55), "uint8", Grid(2.55 / 255, 0)),
        (Range(-255.0, -1.0), "uint8", Grid(1.0, 255)),
        (Range(0.0, 0.0), "uint8", Grid(1 / 255, 0)),
        (Range(0.0, 1e-42), "uint8", Grid(2.0**-120, 0)),
    ],
)
def test_grids_cover_the_range_and_hold_zero(found: Range, dtype: str, grid: Grid) -> None:
    assert grid_of(found, dtype=dtype) == grid


def test_an_infinite_range_is_refused() -> None:
    with pytest.raises(BadInput, match="not finite"):
        grid_of(Range(0.0, float("inf")))


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(BadInput, match="no target"):
        make_plan(prepared(RESIDUAL), {}, registry.quant_specs(), target="abacus")


def test_channels_of_nought_get_a_scale_that_divides() -> None:
    codes, scale = nearest_codes(np.array([[0.0, 0.0], [1.0, -2.0]]), 0)
    assert codes.tolist() == [[0, 0], [64, -127]]
    assert scale.tolist() == [1.0, pytest.approx(2 / 127)]


def test_a_row_added_to_a_product_is_its_bias_and_stays_in_the_integer_kernel(
    tmp_path: Any,
) -> None:
    model = prepared(
        f"""g (float[2,3,8] x) => (float[2,3,8] y) <{weight("w", 8, 8)}, {weight("k", 8)}>
        {{ [m] a = MatMul(x, w) [add] b = Add(a, k) [n] y = MatMul(b, w) }}"""
    )
    ranges = {name: Range(-4.0, 4.0) for name in "xaby"}
    plan = make_plan(model, ranges, registry.quant_specs())
    reasons = {choice.node: choice.reason for choice in plan.nodes}
    assert reasons["add"] == "its row is the bias of the product before it"
    assert sorted(plan.grids) == ["b", "x"]
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["QGemm"] == 1
    assert not found["Add"]


CHAIN = f"""
g (float[1,8,6,6] x) => (float[1,8,6,6] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)},
  {weight("b2", 8)}, {weight("w3", 8, 8, 1, 1)}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] c = Conv(b, w2, b2)
   [r2] d = Relu(c) [c3] y = Conv(d, w3) }}"""

DENSE = f"""
g (float[2,8] x) => (float[2,8] y) <
  {weight("w1", 8, 8)}, {weight("w2", 8, 8)}, {weight("b2", 8)}, {weight("w3", 8, 8)}>
{{ [g1] a = Gemm(x, w1) [g2] b = Gemm(a, w2, b2) [g3] y = Gemm(b, w3) }}"""


def optimized_operators(proto: onnx.ModelProto, folder: Any) -> Counter[str]:
    """What onnxruntime makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(proto.SerializeToString(), options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize(
    ("text", "kept", "kernel", "shape"),
    [(CHAIN, "c2", "Conv", (1, 8, 6, 6)), (DENSE, "g2", "Gemm", (2, 8))],
    ids=["Conv", "Gemm"],
)
def test_a_product_in_float_between_integer_ones_is_not_rounded_by_the_runtime(
    text: str, kept: str, kernel: str, shape: tuple[int, ...], tmp_path: Any
) -> None:
    model = prepared(text)
    feeds = {"x": RANDOM.standard_normal(shape).astype(np.float32)}
    found = ranges_of(model, feeds)
    plan = make_plan(model, found, registry.quant_specs(), keep_float=frozenset({kept}))
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    operators = optimized_operators(proto, tmp_path)
    integer = {"Conv": "QLinearConv", "Gemm": "QGemm"}[kernel]
    assert (operators[integer], operators[kernel]) == (2, 1)
    wanted = run(ir.to_proto(prepared(text)), feeds)
    noise = run(proto, feeds) - wanted
    assert 10 * np.log10(np.sum(wanted**2) / np.sum(noise**2)) > 25


def test_what_stays_float_reads_the_number_itself_where_a_float_node_made_it() -> None:
    model = prepared(
        f"""g (float[1,8,6,6] x) => (float[1,8,6,6] y, float[1,8,6,6] z) <
        {weight("w", 8, 8, 1, 1)}>
        {{ [t] a = Tanh(x) [c] y = Conv(a, w) [e] z = Exp(a) }}"""
    )
    ranges = {name: Range(-1.0, 1.0) for name in "xayz"}
    insert(model, make_plan(model, ranges, registry.quant_specs()), registry.quant_specs())
    readers = {node.name: node.inputs[0].producer() for node in model.graph if node.inputs}
    assert readers["e"].op_type == "Tanh"
    assert readers["c"].op_type == "DequantizeLinear"


def test_a_residual_sum_runs_in_integers_though_its_shortcut_comes_from_a_float_stem(
    tmp_path: Any,
) -> None:
    stem = weight("w0", 8, 3, 3, 3)
    text = RESIDUAL.replace("float[1,8,6,6] x", "float[1,3,6,6] z").replace("<", f"< {stem},", 1)
    text = text.replace("[c1]", "[c0] x0 = Conv<pads = [1,1,1,1]>(z, w0) [r0] x = Relu(x0) [c1]")
    text = text.replace("d = Add(b, c)", "d = Add(x, c)")
    model = prepared(text)
    feeds = {"z": RANDOM.standard_normal((1, 3, 6, 6)).astype(np.float32)}
    plan = make_plan(model, ranges_of(model, feeds), registry.quant_specs())
    choices = {choice.node: choice.quantize for choice in plan.nodes}
    assert (choices["c0"], choices["sum"], choices["pool"]) == (False, True, True)
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    assert optimized_operators(ir.to_proto(model), tmp_path)["QLinearAdd"] == 1


def test_a_weight_of_two_products_is_coded_for_each_of_them() -> None:
    # The inputs of both have scales of their own, and with them the steps of the biases.
    text = CHAIN.replace("Conv(d, w3)", "Conv(d, w2, b2)")
    model = prepared(text)
    feeds = {"x": RANDOM.standard_normal((1, 8, 6, 6)).astype(np.float32)}
    wanted = run(ir.to_proto(model), feeds)
    plan = make_plan(model, ranges_of(model, feeds), registry.quant_specs())
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    proto = ir.to_proto(model)
    steps = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    biases = [steps[name] for name in steps if name.startswith("b2") and "scale" in name]
    assert len(biases) == 2
    assert not np.allclose(biases[0], biases[1])
    noise = run(proto, feeds) - wanted
    assert 10 * np.log10(np.sum(wanted**2) / np.sum(noise**2)) > 25


def test_why_a_weight_is_no_constant_is_said() -> None:
    model = prepared("g (float[1,8] x, float[8,8] w) => (float[1,8] y) { [m] y = MatMul(x, w) }")
    weight_value = model.graph.inputs[1]
    weight_value.const_value = ir.tensor(np.ones((8, 8), np.float32), name="w")
    model.graph.register_initializer(weight_value)
    plan = make_plan(model, {n: Range(-1.0, 1.0) for n in "xy"}, registry.quant_specs())
    assert "a caller may override its weight" in plan.nodes[0].reason


def test_a_gate_is_left_to_measurement() -> None:
    text = f"""g (float[1,8,6,6] x) => (float[1,8,6,6] y) <
        {weight("w1", 8, 8, 1, 1)}, {weight("w2", 8, 8, 1, 1)}>
        {{ [c1] a = Conv(x, w1) [gate] b = Sigmoid(a) [silu] c = Mul(a, b)
           [c2] y = Conv(c, w2) }}"""
    ranges = {name: Range(-2.0, 3.0) for name in "xabcy"}
    for eager in (False, True):
        plan = make_plan(prepared(text), ranges, registry.quant_specs(), eager=eager)
        chosen = {choice.node for choice in plan.nodes if choice.quantize}
        assert chosen == ({"c1", "gate", "silu", "c2"} if eager else {"c1", "c2"})


def test_a_float_weight_that_a_body_reads_too_stays_for_it() -> None:
    text = f"""g (float[1,8] x, bool t) => (float[1,8] y, float[1,8] z) <{weight("w", 8, 8)}>
        {{ [m] y = MatMul(x, w)
           [if] z = If(t) <then_branch = a () => (float[1,8] p) {{ [m] p = MatMul(x, w) }},
             else_branch = b () => (float[1,8] q) {{ [e] q = Identity(x) }}> }}"""
    model = prepared(text)
    feeds = {"x": np.ones((1, 8), np.float32), "t": np.array(True)}
    wanted = run(ir.to_proto(model), feeds)
    ranges = {name: Range(-2.0, 2.0) for name in "xyz"}
    insert(model, make_plan(model, ranges, registry.quant_specs()), registry.quant_specs())
    shapes.restore(model)
    proto = ir.to_proto(model)
    assert "w" in {each.name for each in proto.graph.initializer}
    body = next(node for node in proto.graph.node if node.op_type == "If").attribute[0].g
    assert [node.op_type for node in body.node] == ["MatMul"]
    assert list(body.node[0].input) == ["x", "w"]
    np.testing.assert_allclose(run(proto, feeds), wanted, atol=0.05)


def test_a_product_that_is_quantized_already_is_left_alone() -> None:
    model = prepared(
        f"""g (float[1,8] x) => (float[1,8] y) <{weight("v", 8, 8)},
        int8[8,8] w = {{{",".join(["1"] * 64)}}}, float s = {{0.1}}, int8 o = {{0}}>
        {{ [d] k = DequantizeLinear(w, s, o) [m] a = MatMul(x, k) [n] y = MatMul(a, v) }}"""
    )
    ranges = {name: Range(-2.0, 2.0) for name in "xay"}
    plan = make_plan(model, ranges, registry.quant_specs())
    choices = {choice.node: choice for choice in plan.nodes}
    assert choices["m"].reason == "its weight is quantized already"
    assert choices["n"].quantize
    insert(model, plan, registry.quant_specs())
    shapes.restore(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
