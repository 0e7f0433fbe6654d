from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import pytest

from onnxopt import io
from onnxopt.bench.cost import Cost, cost, cost_at, macs_by_node
from onnxopt.passes import shapes

MODELS = Path(__file__).resolve().parents[2] / "models"
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"


def model(graph: str, *, opset: int = 21, more: str = "", functions: str = "") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : {opset}{more}]> {graph} {functions}'
    )


def cost_of(graph: str, **options: str | int) -> Cost:
    return cost(model(graph, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (  # 4 * 6 * 6 outputs, 3 * 2 * 2 weights each
            "g (float[1,3,7,7] x, float[4,3,2,2] w) => (float[1,4,6,6] y) { y = Conv(x, w) }",
            4 * 6 * 6 * 3 * 2 * 2,
        ),
        (  # depthwise: every output channel sees one input channel
            "g (float[1,8,5,5] x, float[8,1,3,3] w) => (float[1,8,3,3] y)"
            "{ y = Conv<group = 8>(x, w) }",
            8 * 3 * 3 * 3 * 3,
        ),
        (  # every input element is spread over 5 channels of 2x2
            "g (float[1,3,4,4] x, float[3,5,2,2] w) => (float[1,5,5,5] y)"
            "{ y = ConvTranspose(x, w) }",
            3 * 4 * 4 * 5 * 2 * 2,
        ),
        (
            "g (float[7,2] a, float[7,5] b) => (float[2,5] y) { y = Gemm<transA = 1>(a, b) }",
            2 * 5 * 7,
        ),
        (
            "g (float[3,1,2,4] a, float[6,4,5] b) => (float[3,6,2,5] y) { y = MatMul(a, b) }",
            3 * 6 * 2 * 5 * 4,
        ),
        ("g (float[4] a, float[4] b) => (float y) { y = MatMul(a, b) }", 4),
        (  # 7 steps, 2 samples, 4 gates of 3, input 5
            "g (float[7,2,5] x, float[1,12,5] w, float[1,12,3] r) => (float[7,1,2,3] y)"
            "{ y = LSTM<hidden_size = 3>(x, w, r) }",
            7 * 2 * 12 * (5 + 3),
        ),
        (
            "g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y)"
            '{ y = Einsum<equation = "...ij,...jk->...ik">(a, b) }',
            2 * 3 * 4 * 5,
        ),
        (
            "g (uint8[1,3,7,7] x, float s, uint8 z, int8[4,3,2,2] w, float t, int8 u, float v,"
            " uint8 q) => (uint8[1,4,6,6] y) { y = QLinearConv(x, s, z, w, t, u, v, q) }",
            4 * 6 * 6 * 3 * 2 * 2,
        ),
        ("g (float[4] a) => (float[4] y) { y = Exp(a) }", 0),
    ],
)
def test_macs_by_operator(graph: str, expected: int) -> None:
    assert cost_of(graph).macs == expected


@pytest.mark.parametrize(
    ("query", "key", "result"),
    [("1,8,5,16", "1,8,9,16", "1,8,5,16"), ("1,5,128", "1,9,128", "1,5,128")],
    ids=["heads on an axis of their own", "heads in the last axis"],
)
def test_attention_counts_scores_and_mixing(query: str, key: str, result: str) -> None:
    found = cost_of(
        f"g (float[{query}] q, float[{key}] k, float[{key}] v) => (float[{result}] y)"
        "{ y = Attention<q_num_heads = 8, kv_num_heads = 8>(q, k, v) }",
        opset=23,
    )
    assert found.macs == 2 * 8 * 5 * 9 * 16


def test_microsoft_operators_are_named_with_their_domain() -> None:
    found = cost_of(
        "g (float[2,64] a, uint8[32,2,16] w, float[64] s) => (float[2,32] y)"
        "{ y = com.microsoft.MatMulNBits<K = 64, N = 32, bits = 4, block_size = 32>(a, w, s) }",
        more=', "com.microsoft" : 1',
    )
    assert found.macs_by_op == {"com.microsoft.MatMulNBits": 2 * 64 * 32}
    assert found.ops == {"com.microsoft.MatMulNBits": 1}


def test_a_product_is_counted_from_its_operands_when_its_result_has_no_shape() -> None:
    found = cost_of(
        "g (float[3,1,2,4] a, float[6,4,5] b) => (float y) { c = MatMul(a, b) y = ReduceSum(c) }"
    )
    assert found.macs == 3 * 6 * 2 * 5 * 4


def test_constants_are_no_nodes_but_parameters() -> None:
    found = cost_of(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}>"
        "{ c = Constant<value = float[3] {1, 2, 3}>() i = Constant<value_ints = [0, 1]>()"
        "  d = Gather(c, i) e = Add(x, d) y = Mul(e, w) }"
    )
    assert (found.nodes, found.ops) == (3, {"Add": 1, "Gather": 1, "Mul": 1})
    assert (found.parameters, found.parameter_bytes) == (7, 4 * 5 + 8 * 2)
    assert found.dtypes == {"FLOAT": 5, "INT64": 2}


def test_a_tensor_that_two_names_share_is_counted_once() -> None:
    shared = ir.tensor(np.ones(5, np.float32))
    loaded = model("g (float[5] x) => (float[5] y) { a = Add(x, v) y = Add(a, w) }")
    for name in ("v", "w"):
        value = ir.Value(name=name, const_value=shared)
        loaded.graph.initializers[name] = value
    assert cost(loaded).parameters == 5


def test_bodies_and_functions_count_as_nodes_once() -> None:
    found = cost_of(
        "g (bool c, float[2] x) => (float[2] y) {"
        " z = f.twice(x)"
        " y = If (c) <then_branch = a () => (float[2] p) { p = Neg(z) },"
        "             else_branch = b () => (float[2] q) { r = Neg(z) q = Neg(r) }> }",
        more=', "f" : 1',
        functions='<domain: "f", opset_import: ["" : 21]> twice (x) => (y) { y = Add(x, x) }',
    )
    assert found.ops == {"Add": 1, "If": 1, "Neg": 3, "f.twice": 1}
    assert found.nodes == 6


MATMULS = "g (float[batch,4] x, float[4,5] w) => (float[batch,5] y) { y = MatMul(x, w) }"


def test_a_dim_without_a_number_counts_as_one_and_that_is_said() -> None:
    found = cost(model(MATMULS))
    assert (found.macs, found.macs_at) == (4 * 5, {"batch": 1})


IMAGE = "g (float[n,3,h,w] x, float[4,3,1,1] k) => (float[n,4,h,w] y) { y = Conv(x, k) }"


@pytest.mark.parametrize("count", [cost, cost_at])
def test_the_sides_of_an_image_count_as_those_of_a_photo(count: Any) -> None:
    found = count(model(IMAGE), dims={"w": 10})
    assert found.macs_at == {"n": 1, "h": 224, "w": 10}
    assert found.macs == 224 * 10 * 4 * 3


def test_a_dim_without_a_name_is_called_after_its_place() -> None:
    loaded = model("g (float[1,4] x, float[4,5] w) => (float[] y) { y = MatMul(x, w) }")
    loaded.graph.inputs[0].shape = ir.Shape([None, 4])
    assert cost_at(loaded, dims={"x.0": 3}).macs_at == {"x.0": 3}


def test_sizes_count_in_a_model_whose_shapes_were_inferred() -> None:
    loaded = model(MATMULS)
    shapes.infer(loaded)
    for size in (3, 7):
        assert cost_at(loaded, dims={"batch": size}).macs == size * 4 * 5
        assert sum(macs_by_node(loaded, dims={"batch": size}).values()) == size * 4 * 5


def test_a_dim_takes_the_size_it_is_given() -> None:
    found = cost(model(MATMULS), dims={"batch": 3})
    assert (found.macs, found.macs_at) == (3 * 4 * 5, {"batch": 3})


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        ("2*batch + 1", 7),
        ("floordiv(batch - 1, 2)", 1),
        ("broadcast(min(512, batch), batch)", 3),
        ("max(1, floor(batch/2))", 1),
        ("-batch + 4", 1),
    ],
)
def test_a_dim_that_is_an_expression_is_computed(dim: str, size: int) -> None:
    loaded = model("g (float[batch,4] x, float[4,5] w) => (float y) { y = MatMul(x, w) }")
    loaded.graph.outputs[0].shape = ir.Shape([ir.SymbolicDim(dim), 5])
    found = cost(loaded, dims={"batch": 3})
    assert (found.macs, found.macs_at) == (size * 4 * 5, {"batch": 3})


@pytest.mark.parametrize(
    "dim",
    [None, "found_while_running", "no expression", "-n", "floordiv(n, 0)", "n ** n", "n/2", "f(n)"],
)
def test_a_size_that_no_input_gives_leaves_the_node_out(dim: str | None) -> None:
    loaded = model(
        "g (float[n,4] x, float[4,5] w, float[2,3] a, float[3,2] b) => (float[] y, float[2,2] z)"
        "{ r = Compress(x, w) y = MatMul(r, w) z = MatMul(a, b) }"
    )
    loaded.graph[0].outputs[0].shape = ir.Shape([ir.SymbolicDim(dim), 4])
    found = cost(loaded)
    assert (found.macs, found.macs_missing) == (2 * 2 * 3, {"MatMul": 1})


def test_macs_are_unknown_where_no_shape_is() -> None:
    found = cost_of("g (float[] x, float[5] w) => (float[] y) { a = Exp(x) y = Conv(a, w) }")
    assert (found.macs, found.macs_missing) == (None, {"Conv": 1})


def test_of_two_branches_the_larger_one_is_counted() -> None:
    found = cost_of(
        "g (bool c, float[2,3] x, float[3,4] w) => (float[2,4] y) {"
        " y = If (c) <then_branch = a () => (float[2,4] p) { p = MatMul(x, w) },"
        "   else_branch = b () => (float[2,4] q) { r = MatMul(x, w) s = MatMul(x, w)"
        "                                          q = Add(r, s) }> }"
    )
    assert found.macs == 2 * 2 * 3 * 4


SCAN = (
    "g (float[3] s, float[7,3] x, float[3,3] w) => (float[3] t, float[7,3] y) {"
    " t, y = Scan <num_scan_inputs = 1, body = b (float[3] s_in, float[3] x_in)"
    "   => (float[3] s_out, float[3] y_out) { m = MatMul(x_in, w) s_out = Add(s_in, m)"
    "   y_out = Identity(m) }> (s, x) }"
)


def test_a_scan_body_counts_for_every_step() -> None:
    loaded = model(SCAN)
    body = next(loaded.graph.subgraphs())
    body[0].outputs[0].shape = ir.Shape([3])
    assert cost(loaded).macs == 7 * 3 * 3


def test_a_loop_of_unknown_length_counts_once_and_that_is_said() -> None:
    found = cost_of(
        "g (int64 n, bool c, float[2,2] x) => (float[2,2] y) {"
        " y = Loop <body = b (int64 i, bool go, float[2,2] v) => (bool on, float[2,2] o)"
        "   { on = Identity(go) o = MatMul(v, v) }> (n, c, x) }"
    )
    assert found.macs == 8
    assert "counted once" in found.notes[0]


def test_cost_at_looks_into_functions_and_leaves_the_model_as_it_is() -> None:
    loaded = model(
        "g (float[batch,4] x, float[4,5] w) => (float[batch,5] y) { y = f.layer(x, w) }",
        more=', "f" : 1',
        functions='<domain: "f", opset_import: ["" : 21]> layer (x, w) => (y)'
        "{ z = MatMul(x, w) y = Relu(z) }",
    )
    before = io.to_proto(loaded).SerializeToString(deterministic=True)
    found = cost_at(loaded, dims={"batch": 2})
    assert (found.macs, found.macs_at) == (2 * 4 * 5, {"batch": 2})
    assert found.nodes == 3
    assert io.to_proto(loaded).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("path", "published"),
    [(MODELS / "cifar_resnet20.onnx", 40.8e6), (LIGHT / "light_resnet50.onnx", 4.1e9)],
    ids=["cifar_resnet20", "resnet50"],
)
def test_known_networks_take_what_their_papers_say(path: Path, published: float) -> None:
    found = cost_at(io.load(path))
    assert found.macs == pytest.approx(published, rel=0.01)
    assert not found.macs_missing
