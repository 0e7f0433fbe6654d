"""16-bit floats: what they compute, what stays in 32 bits, what the provider says to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mode_models import K, N, loss_db, model, normal
from onnx import TensorProto, helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize.draft import name_all
from onnxopt.quantize.half import half_choices


def half(given: onnx.ModelProto, **asked: Any) -> QuantizeResult:
    return quantize(given, mode="fp16", bench=False, threads=1, **asked)


def reasons(given: onnx.ModelProto) -> dict[str, str]:
    named = io.load(given)
    name_all(named)
    shapes.infer(named)
    found = half_choices(named, ir.DataType.FLOAT16)
    return {choice.node: "" if choice.quantize else choice.reason for choice in found}


PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["m"], "mul"),
           helper.make_node("Tanh", ["m"], ["t"], "tanh"),
           helper.make_node("MatMul", ["t", "v"], ["y"], "last")]  # fmt: skip
WEIGHTS = {"w": normal(K, N), "v": normal(N, N)}


def test_the_file_is_half_as_large_and_its_interface_float32() -> None:
    given = model(PRODUCT, WEIGHTS)
    result = half(given)
    assert result.report.verdict == "fp16"
    assert io.model_bytes(result.model) < 0.55 * io.model_bytes(io.load(given))
    assert loss_db(given, result, x=normal(3, K)) > 55
    graph = io.to_proto(result.model).graph
    kinds = [each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)]
    assert kinds == [TensorProto.FLOAT, TensorProto.FLOAT]


def test_casts_stand_at_the_borders_only() -> None:
    result = half(model(PRODUCT, WEIGHTS))
    kinds = [node.op_type for node in result.model.graph]
    assert kinds == ["Cast", "MatMul", "Tanh", "MatMul", "Cast"]


def test_a_value_is_cast_once_for_all_its_readers() -> None:
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(2)]
    weights = {f"w{i}": normal(K, N) for i in range(2)}
    result = half(model(nodes, weights, results=("y0", "y1")))
    assert [node.op_type for node in result.model.graph].count("Cast") == 3


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (helper.make_node("Softmax", ["m"], ["n"], "it"), "outgrow"),
        (helper.make_node("ReduceSum", ["m"], ["n"], "it"), "outgrow"),
        (helper.make_node("Pow", ["m", "two"], ["n"], "it"), "outgrow"),
        (helper.make_node("Mul", ["m", "huge"], ["n"], "it"), "too large"),
        (helper.make_node("Add", ["m", "tiny"], ["n"], "it"), "too small"),
        (helper.make_node("Add", ["m", "two"], ["n"], "it"), ""),
    ],
    ids=lambda value: getattr(value, "op_type", value),
)
def test_what_does_not_fit_stays_in_32_bits(node: onnx.NodeProto, word: str) -> None:
    nodes = [PRODUCT[0], node, helper.make_node("Sigmoid", ["n"], ["y"], "after")]
    constants = {"two": np.float32(2), "huge": np.float32(3e38), "tiny": np.float32(1e-12)}
    used = {name: value for name, value in constants.items() if name in node.input}
    found = reasons(model(nodes, {"w": normal(K, N), **used}))
    assert word in found["it"] and bool(word) == bool(found["it"])
    assert found["mul"] == ""


def test_what_a_huge_number_reaches_stays_in_32_bits() -> None:
    nodes = [
        PRODUCT[0],
        helper.make_node("Where", ["c", "m", "least"], ["a"], "mask"),
        helper.make_node("Add", ["a", "one"], ["b"], "shift"),
        helper.make_node("Tanh", ["b"], ["d"], "bound"),
        helper.make_node("Neg", ["d"], ["y"], "after"),
    ]
    weights = {"w": normal(K, N), "least": np.float32(-3.4e38), "one": np.float32(1)}
    inputs = {"x": (1, ["batch", K]), "c": (TensorProto.BOOL, ["batch", N])}
    given = model(nodes, weights, inputs=inputs)
    found = reasons(given)
    assert all(found[name] for name in ("mask", "shift", "bound"))
    assert (found["mul"], found["after"]) == ("", "")
    mask = np.arange(N)[None].repeat(2, 0) % 2 == 0
    assert loss_db(given, half(given), x=normal(2, K), c=mask) > 50


def test_numbers_that_become_whole_stay_in_32_bits() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["a"], "scale"),
        helper.make_node("Floor", ["a"], ["b"], "floor"),
        helper.make_node("Cast", ["b"], ["i"], "to_int", to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["f"], "back", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"], "mul"),
    ]
    given = model(nodes, {"s": np.float32(3000.5), "w": normal(K, N)})
    found = reasons(given)
    assert all("whole" in found[name] for name in ("scale", "floor"))
    assert found["mul"] == ""


def test_data_shows_what_is_too_large() -> None:
    nodes = [helper.make_node("MatMul", ["x", "big"], ["m"], "mul"),
             helper.make_node("Tanh", ["m"], ["t"], "tanh"),
             helper.make_node("MatMul", ["t", "v"], ["y"], "last")]  # fmt: skip
    given = model(nodes, {"big": normal(K, N) * 1e4, "v": normal(N, N)})
    data = {"x": normal(10, K) * 1e3}
    result = half(given, data=data, metric="sqnr")
    assert result.report.verdict == "fp16"
    found = {layer.node: layer.reason for layer in result.report.layers}
    assert "on the samples" in found["mul"] and "on the samples" in found["tanh"]


def test_bodies_keep_their_interface() -> None:
    def body(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", f"w_{name}"], [f"{name}_y"], f"{name}_mul")
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    branch = helper.make_node(
        "If", ["c"], ["y"], "if", then_branch=body("a"), else_branch=body("b")
    )
    inputs = {"x": (1, ["batch", K]), "c": (TensorProto.BOOL, [])}
    given = model([branch], {"w_a": normal(K, N), "w_b": normal(K, N)}, inputs=inputs)
    result = half(given)
    assert io.model_bytes(result.model) < 0.6 * io.model_bytes(io.load(given))
    for taken in (True, False):
        assert loss_db(given, result, x=normal(3, K), c=np.asarray(taken)) > 55


def test_an_lstm_keeps_32_bits_and_stores_16() -> None:
    weights = {"w": normal(1, 64, K), "r": normal(1, 64, 16), "b": normal(1, 128)}
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["h"], "lstm", hidden_size=16),
        helper.make_node("Tanh", ["h"], ["y"], "tanh"),
    ]
    given = model(nodes, weights, inputs={"x": (1, [5, "batch", K])})
    result = half(given)
    assert io.model_bytes(result.model) < 0.65 * io.model_bytes(io.load(given))
    assert loss_db(given, result, x=normal(5, 2, K)) > 55


def test_the_proof_names_what_the_cpu_widens_again() -> None:
    result = half(model(PRODUCT, WEIGHTS))
    found = {layer.node: layer for layer in result.report.layers}
    assert found["mul"].kernel == "float"
    assert "no MatMul of float16" in found["mul"].reason


def test_bfloat16_is_refused_where_no_kernel_runs_it() -> None:
    given = model(PRODUCT, WEIGHTS)
    with pytest.raises(BadInput, match="no products of bfloat16"):
        quantize(given, mode="bf16")
    with pytest.raises(BadInput, match="target qnn"):
        quantize(given, mode="bf16", target="qnn")


def test_bfloat16_is_written_for_a_target_that_runs_it() -> None:
    given = model(PRODUCT, WEIGHTS, opset=13)
    result = quantize(given, mode="bf16", target="tensorrt", bench=False, threads=1)
    assert result.report.verdict == "bf16"
    proto = io.to_proto(result.model)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["batch", N]))
    onnx.checker.check_model(proto, full_check=True)
    kinds = {value.const_value.dtype for value in result.model.graph.initializers.values()}
    assert kinds == {ir.DataType.BFLOAT16}


@pytest.mark.parametrize(
    ("dtype", "word"), [(np.float16, "float16 already"), (np.float64, "computes in double")]
)
def test_models_of_other_floats_are_refused_in_clear_words(dtype: Any, word: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    given = model(nodes, {"w": normal(K, N).astype(dtype)}, inputs={"x": (kind, ["batch", K])})
    with pytest.raises(BadInput, match=word):
        half(given)
