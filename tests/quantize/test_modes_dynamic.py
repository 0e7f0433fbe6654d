"""Dynamic quantization: what onnxruntime makes of it, what it costs, what stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mode_models import RANDOM, K, N, kernels, loss_db, model, normal
from onnx import TensorProto, helper, numpy_helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.errors import BadInput
from onnxopt.quantize.row_codes import coded_rows
from onnxopt.quantize.saturation import saturates, saturating_product


def dynamic(given: onnx.ModelProto, **asked: Any) -> QuantizeResult:
    return quantize(given, mode="dynamic", bench=False, threads=1, **asked)


PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["m"], "mul"),
           helper.make_node("Add", ["m", "b"], ["y"], "add")]  # fmt: skip


def test_a_product_becomes_one_kernel_with_its_bias() -> None:
    given = model(PRODUCT, {"w": normal(K, N), "b": normal(N)})
    result = dynamic(given)
    assert (result.report.verdict, result.report.mode) == ("int8", "dynamic")
    assert set(kernels(result).values()) == {"DynamicQuantizeMatMul"}
    assert loss_db(given, result, x=normal(5, K)) > 35
    proto = io.to_proto(result.model)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["batch", N]))
    onnx.checker.check_model(proto, full_check=True)


def test_products_that_read_one_value_share_its_codes() -> None:
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], f"mul{i}") for i in range(2)]
    weights = {f"w{i}": normal(K, N) for i in range(2)}
    result = dynamic(model(nodes, weights, results=("y0", "y1")))
    assert set(kernels(result).values()) == {"MatMulIntegerToFloat"}
    kinds = [node.op_type for node in result.model.graph]
    assert kinds.count("DynamicQuantizeLinear") == 1


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["row", "computed", "none"])
def test_a_gemm_runs_in_integers_with_any_bias(transposed: int, bias: str) -> None:
    weights = {"w": normal(N, K) if transposed else normal(K, N), "b": normal(N)}
    nodes = [helper.make_node("Relu", ["z"], ["c"])]
    third = {"row": ["b"], "computed": ["c"], "none": []}[bias]
    nodes += [helper.make_node("Gemm", ["x", "w", *third], ["y"], "gemm", transB=transposed)]
    inputs = {"x": (1, ["batch", K]), "z": (1, ["batch", N])}
    given = model(nodes, weights, inputs=inputs)
    result = dynamic(given)
    assert kernels(result)["gemm"] == "DynamicQuantizeMatMul"
    assert loss_db(given, result, x=normal(3, K), z=normal(3, N)) > 35


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_an_lstm_runs_in_integers(direction: str) -> None:
    count, hidden = (2 if direction == "bidirectional" else 1), 16
    weights = {
        "w": normal(count, 4 * hidden, K),
        "r": normal(count, 4 * hidden, hidden),
        "b": normal(count, 8 * hidden),
    }
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b"], ["y", "", "c"], "lstm",
        direction=direction, hidden_size=hidden,
    )  # fmt: skip
    given = model([node], weights, inputs={"x": (1, [7, "batch", K])}, results=("y", "c"))
    result = dynamic(given)
    assert kernels(result)["lstm"] == "DynamicQuantizeLSTM"
    assert loss_db(given, result, x=normal(7, 2, K) * 10) > 25


def test_rows_of_a_large_table_are_looked_up_as_codes() -> None:
    table = normal(2000, 32) * np.linspace(0.01, 10, 2000, dtype=np.float32)[:, None]
    nodes = [helper.make_node("Gather", ["t", "ids"], ["y"], "look_up")]
    inputs = {"ids": (TensorProto.INT64, ["batch"])}
    given = model(nodes, {"t": table}, inputs=inputs)
    result = dynamic(given)
    assert kernels(result)["look_up"] == "Gather"
    assert io.model_bytes(result.model) < 0.3 * io.model_bytes(io.load(given))
    # A scale a row: the smallest rows keep their digits too.
    assert loss_db(given, result, ids=np.arange(5)) > 35


def test_what_lies_in_bodies_and_weights_from_outside_run_in_integers() -> None:
    def body(name: str, weight: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", weight], [f"{name}_y"], f"{name}_mul")
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        own = numpy_helper.from_array(normal(K, N), "inner")
        return helper.make_graph([node], name, [], [out], [own] if weight == "inner" else [])

    branch = helper.make_node(
        "If", ["c"], ["y"], "if", then_branch=body("a", "inner"), else_branch=body("b", "outer")
    )
    inputs = {"x": (1, ["batch", K]), "c": (TensorProto.BOOL, [])}
    given = model([branch], {"outer": normal(K, N)}, inputs=inputs)
    result = dynamic(given)
    found = {name: kernel for name, kernel in kernels(result).items() if name.endswith("_mul")}
    assert found == {"a_mul": "DynamicQuantizeMatMul", "b_mul": "DynamicQuantizeMatMul"}
    for taken in (True, False):
        assert loss_db(given, result, x=normal(3, K), c=np.asarray(taken)) > 35


def test_a_weight_that_is_used_twice_is_stored_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    given = model(nodes, {"w": normal(K, K)}, inputs={"x": (1, ["batch", K])})
    result = dynamic(given)
    assert set(kernels(result).values()) == {"DynamicQuantizeMatMul"}
    kept = [value.const_value.dtype for value in result.model.graph.initializers.values()]
    assert kept.count(ir.DataType.INT8) == 1


def test_a_table_tied_to_a_product_serves_both() -> None:
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["e"], "look_up"),
        helper.make_node("Transpose", ["t"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "w"], ["y"], "head"),
    ]
    given = model(nodes, {"t": normal(1000, K)}, inputs={"ids": (TensorProto.INT64, ["batch"])})
    result = dynamic(given)
    assert kernels(result)["look_up"] == "Gather"
    assert io.model_bytes(result.model) < 0.6 * io.model_bytes(io.load(given))
    assert loss_db(given, result, ids=np.arange(4)) > 30


def test_codes_never_overflow_16_bits() -> None:
    rows = normal(8, 256) + np.float32(0.2)
    found = coded_rows(rows)
    assert not saturates(found.codes).any()
    activations = np.full((1, 256), 255, np.uint8)
    exact = activations.astype(np.int64) @ found.codes.astype(np.int64).T
    assert (saturating_product(activations, found.codes) == exact).all()
    nearest = np.rint(rows / (np.abs(rows).max(axis=1, keepdims=True) / 127)).astype(np.int8)
    assert saturates(nearest).any()


def test_with_data_the_loss_is_measured_and_codes_make_up_for_errors() -> None:
    mixed = RANDOM.standard_normal((K, K)).astype(np.float32)
    samples = np.stack([(RANDOM.standard_normal(K) @ mixed).astype(np.float32) for _ in range(60)])
    samples[:, :4] *= 20
    given = model(PRODUCT, {"w": normal(K, N), "b": normal(N)})
    plain = dynamic(given)
    result = dynamic(given, data={"x": samples}, metric="sqnr")
    score = result.report.score
    assert score is not None and score.samples == 12
    feed = {"x": samples[4::5]}
    assert loss_db(given, result, **feed) > loss_db(given, plain, **feed)


def test_a_budget_that_is_missed_writes_nothing(tmp_path: Any) -> None:
    given = model(PRODUCT, {"w": normal(K, N), "b": normal(N)})
    data = {"x": normal(20, K)}
    out = tmp_path / "out.onnx"
    result = dynamic(given, data=data, metric="sqnr", max_drop=1e-12, output=out)
    assert (result.report.verdict, result.report.passed) == ("over budget", False)
    assert not out.exists() and result.best is not None
    assert {node.op_type for node in result.model.graph}.isdisjoint({"MatMulInteger"})


def test_the_worst_product_goes_back_to_float_until_the_budget_holds() -> None:
    # Inputs of very different size: in the second product all but the largest are lost.
    weights = {"w0": normal(K, K), "w1": normal(K, K)}
    weights["w1"][0] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "harmless"),
        helper.make_node("MatMul", ["z", "w1"], ["b"], "harmful"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    inputs = {"x": (1, ["batch", K]), "z": (1, ["batch", K])}
    given = model(nodes, weights, inputs=inputs)
    data = {"x": normal(20, K) * 10, "z": normal(20, K) * 10}
    data["z"][:, 0] *= 1e4
    result = dynamic(given, data=data, metric="sqnr", max_drop=0.01)
    assert result.report.verdict == "int8"
    assert result.report.back == ("harmful",)
    assert kernels(result)["harmless"] == "DynamicQuantizeMatMul"
    assert kernels(result)["harmful"] == "float"


def test_nothing_to_quantize_keeps_the_float_model_and_says_why() -> None:
    weights = {"w": normal(8, 8, 3, 3)}
    given = model(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], weights,
        inputs={"x": (1, [1, 8, 9, 9])},
    )  # fmt: skip
    result = dynamic(given)
    assert result.report.verdict == "float"
    assert "use static" in result.report.reason


def test_a_plan_can_be_edited_and_is_for_its_mode() -> None:
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], f"mul{i}") for i in range(2)]
    given = model(nodes, {f"w{i}": normal(K, N) for i in range(2)}, results=("y0", "y1"))
    plan = dynamic(given, plan_only=True).plan
    text = plan.to_json()
    assert type(plan).from_json(text) == plan
    edited = type(plan).from_json(text.replace('"quantize": true', '"quantize": false', 1))
    assert kernels(dynamic(given, plan=edited)) == {
        "mul0": "float",
        "mul1": "DynamicQuantizeMatMul",
    }
    with pytest.raises(BadInput, match="for the mode dynamic, not weights"):
        quantize(given, mode="weights", plan=plan, bench=False)


def test_a_partly_quantized_model_keeps_what_it_has() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq"),
        helper.make_node("MatMul", ["x", "w"], ["a"], "done"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["y"], "open"),
    ]
    codes = RANDOM.integers(-127, 127, (K, N)).astype(np.int8)
    given = model(nodes, {"q": codes, "s": np.float32(0.01), "w1": normal(N, K)})
    result = dynamic(given)
    assert kernels(result)["open"] == "DynamicQuantizeMatMul"
    reasons = {layer.node: layer.reason for layer in result.report.layers}
    assert "quantized already" in reasons["done"] or kernels(result)["done"] != "float"


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"mode": "int3"}, "there is no mode"),
        ({"mode": "dynamic", "target": "tensorrt"}, "does not run on the target"),
        ({"mode": "dynamic", "bits": 4}, "for the mode weights only"),
        ({"mode": "dynamic", "max_drop": 0.1}, "only be measured on samples"),
        ({"mode": "dynamic", "data": {"z": normal(3, K)}}, "z"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], word: str) -> None:
    given = model(PRODUCT, {"w": normal(K, N), "b": normal(N)})
    with pytest.raises(BadInput, match=word):
        quantize(given, bench=False, **asked)


def test_a_double_model_is_refused_in_clear_words() -> None:
    given = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["d"]),
            helper.make_node("Cast", ["d"], ["y"], to=1),
        ],
        {"w": normal(K, N).astype(np.float64)},
        inputs={"x": (TensorProto.DOUBLE, ["batch", K])},
    )
    with pytest.raises(BadInput, match="computes in double"):
        dynamic(given)
