"""Weights as codes: what onnxruntime makes of them, how small the file gets, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mode_models import CODED, RANDOM, RUNTIME, K, N, kernels, loss_db, model, normal
from onnx import helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.errors import BadInput
from onnxopt.quantize.blocks import block_codes
from onnxopt.quantize.proof import prove

PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["m"], "mul"),
           helper.make_node("Sigmoid", ["m"], ["y"], "end")]  # fmt: skip


def packed(given: onnx.ModelProto, **asked: Any) -> QuantizeResult:
    return quantize(given, mode="weights", bench=False, threads=1, **asked)


@pytest.mark.parametrize(
    ("bits", "block", "least_db"),
    [(8, None, 35), (8, 32, 35), (4, None, 15), (4, 16, 17), (4, 0, 12)],
)
def test_a_product_becomes_matmulnbits(bits: int, block: int | None, least_db: float) -> None:
    given = model(PRODUCT, {"w": normal(K, N) * 20})
    result = packed(given, bits=bits, block=block)
    assert result.report.verdict == f"int{bits}"
    assert kernels(result)["mul"] == ("MatMulNBits" if bits == 4 and block != 0 else CODED)
    assert loss_db(given, result, x=normal(5, K)) > least_db
    share = io.model_bytes(result.model) / io.model_bytes(io.load(given))
    assert share < (0.35 if bits == 8 else 0.27)


@pytest.mark.parametrize("length", [100, 129])
def test_rows_need_not_be_whole_blocks(length: int) -> None:
    given = model(PRODUCT, {"w": normal(length, N)}, inputs={"x": (1, ["batch", length])})
    result = packed(given, bits=4)
    assert kernels(result)["mul"] == "MatMulNBits"
    assert loss_db(given, result, x=normal(5, length)) > 15


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["row", "computed", "none"])
def test_a_gemm_becomes_matmulnbits_with_any_bias(transposed: int, bias: str) -> None:
    weights = {"w": normal(N, K) if transposed else normal(K, N), "b": normal(N)}
    third = {"row": ["b"], "computed": ["c"], "none": []}[bias]
    nodes = [
        helper.make_node("Relu", ["z"], ["c"]),
        helper.make_node("Gemm", ["x", "w", *third], ["y"], "gemm", transB=transposed),
    ]
    given = model(nodes, weights, inputs={"x": (1, ["batch", K]), "z": (1, ["batch", N])})
    result = packed(given)
    assert kernels(result)["gemm"] == CODED
    assert loss_db(given, result, x=normal(3, K), z=normal(3, N)) > 30


def test_a_weight_that_is_used_twice_gets_codes_for_each() -> None:
    # onnxruntime joins no product whose codes another reads.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    result = packed(model(nodes, {"w": normal(K, K)}))
    assert set(kernels(result).values()) == {CODED}


def test_a_weight_outside_of_a_body_moves_into_it() -> None:
    def body(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", f"w_{name}"], [f"{name}_y"], f"{name}_mul")
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}_y", 1, None)]
        )

    branch = helper.make_node(
        "If", ["c"], ["y"], "if", then_branch=body("a"), else_branch=body("b")
    )
    inputs = {"x": (1, ["batch", K]), "c": (onnx.TensorProto.BOOL, [])}
    given = model([branch], {"w_a": normal(K, N), "w_b": normal(K, N)}, inputs=inputs)
    result = packed(given)
    assert {k for n, k in kernels(result).items() if n.endswith("_mul")} == {CODED}
    assert loss_db(given, result, x=normal(3, K), c=np.asarray(True)) > 30


def test_a_convolution_gets_smaller_and_is_said_to_be_float() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    given = model([node], {"w": normal(32, 8, 3, 3)}, inputs={"x": (1, [1, 8, 9, 9])})
    result = packed(given)
    assert result.report.verdict == "int8"
    assert io.model_bytes(result.model) < 0.4 * io.model_bytes(io.load(given))
    assert loss_db(given, result, x=normal(1, 8, 9, 9)) > 35
    assert kernels(result)["conv"] == "float"


def test_the_opset_is_raised_for_blocks_and_it_is_said() -> None:
    given = model(PRODUCT, {"w": normal(K, N)}, opset=11)
    plain, blocks = packed(given), packed(given, bits=4)
    assert plain.model.opset_imports[""] == 13
    assert blocks.model.opset_imports[""] == 21
    assert any("raised from 11 to 21" in note for note in blocks.report.notes)
    assert blocks.model.ir_version >= 10


def test_scales_and_rounding_are_better_than_nearest_and_better_still_with_data() -> None:
    rows = RANDOM.standard_normal((16, 128)).astype(np.float32)
    mixed = RANDOM.standard_normal((128, 128))
    samples = RANDOM.standard_normal((2000, 128)) @ mixed
    second = samples.T @ samples / len(samples)

    def loss(numbers: Any) -> float:
        return float(np.square(samples @ (rows - numbers).T).mean())

    blocks = rows.reshape(16, -1, 32)
    plain = np.abs(blocks).max(axis=2, keepdims=True) / 7
    nearest = (np.rint(blocks / plain) * plain).reshape(rows.shape)
    free, known = block_codes(rows, 4, 32), block_codes(rows, 4, 32, second)
    numbers = [each.codes * np.repeat(each.scale, 32, axis=1) for each in (free, known)]
    assert np.square(rows - numbers[0]).mean() < 0.95 * np.square(rows - nearest).mean()
    assert loss(numbers[1]) < 0.7 * loss(nearest)


def test_with_data_the_codes_are_those_for_the_data() -> None:
    # Few directions: what one code gets wrong there, others can make up for.
    samples = normal(100, 12) @ normal(12, K) * 100
    given = model(PRODUCT, {"w": normal(K, N)})
    plain = packed(given, bits=4)
    fitted = packed(given, bits=4, data={"x": samples}, metric="sqnr", max_drop=0.5)
    assert fitted.report.score is not None
    feed = {"x": samples[4::5]}
    assert loss_db(given, fitted, **feed) > loss_db(given, plain, **feed) + 1


def test_a_file_that_would_not_get_smaller_stays_as_it_is() -> None:
    result = packed(model(PRODUCT, {"w": normal(K, 8)}))
    assert result.report.verdict == "float"
    assert "too few" in result.report.reason


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"bits": 3}, "can't have 3 bits"),
        ({"bits": 4, "block": 24}, "can't have 24 weights"),
        ({"bits": 4, "block": 8}, "can't have 8 weights"),
        ({"target": "tensorrt"}, "does not run on the target"),
    ],
    ids=str,
)
def test_what_no_kernel_takes_is_refused(asked: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        packed(model(PRODUCT, {"w": normal(K, N)}), **asked)


def test_int4_codes_take_half_a_byte() -> None:
    result = packed(model(PRODUCT, {"w": normal(K, N)}), bits=4)
    tensors = [value.const_value for value in result.model.graph.initializers.values()]
    assert sum(each.nbytes for each in tensors if each.dtype is ir.DataType.INT4) == K * N // 2


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize("added", [True, False])
def test_an_activation_behind_a_product_does_not_keep_it_from_its_codes(
    activation: str, added: bool
) -> None:
    nodes, value = [], "x"
    for index in range(2):
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"], f"mul{index}"))
        value = f"m{index}"
        if added:
            nodes.append(helper.make_node("Add", [value, "b"], [f"a{index}"]))
            value = f"a{index}"
        bounds = ["low", "high"] if activation == "Clip" else []
        nodes.append(helper.make_node(activation, [value, *bounds], [f"r{index}"]))
        value = f"r{index}"
    nodes.append(helper.make_node("Sigmoid", [value], ["y"]))
    weights = {f"w{index}": normal(K, K) for index in range(2)}
    weights |= {"b": normal(K), "low": np.float32(-0.1), "high": np.float32(0.2)}
    given = model(nodes, weights, inputs={"x": (1, ["batch", 3, K])})
    result = packed(given)
    assert set(kernels(result).values()) == {CODED}
    assert loss_db(given, result, x=normal(4, 3, K)) > 35


def _coded(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    unpack = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq", axis=1)
    codes = RANDOM.integers(-127, 127, (K, K)).astype(np.int8)
    known = {"q": codes, "s": np.full(K, 0.01, np.float32), **weights}
    return model([unpack, *nodes], known)


@pytest.mark.parametrize(
    ("nodes", "weights", "rule"),
    [
        (
            [
                helper.make_node("MatMul", ["x", "w"], ["a"], "it"),
                helper.make_node("Relu", ["a"], ["r"]),
                helper.make_node("Sigmoid", ["r"], ["y"]),
            ],
            {},
            "cut-behind-codes",
        ),
        (
            [
                helper.make_node("MatMul", ["x", "w"], ["a"], "it"),
                helper.make_node("Sigmoid", ["a"], ["b"]),
                helper.make_node("MatMul", ["b", "w"], ["y"], "other"),
            ],
            {},
            "shared-codes",
        ),
        (
            [helper.make_node("Gemm", ["x", "w"], ["y"], "it", transB=1)],
            {},
            "layout-of-codes",
        ),
        (
            [helper.make_node("Gemm", ["x", "w", "c"], ["y"], "it")],
            {"c": np.ones((1, K), np.float32)},
            "layout-of-codes",
        ),
    ],
    ids=["relu", "shared", "transposed", "bias"],
)
def test_what_keeps_a_product_from_its_codes_has_a_name(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], rule: str
) -> None:
    if rule == "shared-codes" and (1, 25) <= RUNTIME < (1, 27):
        pytest.skip("onnxruntime 1.25 and 1.26 give each reader codes of its own")
    found = {node.name: node for node in prove(_coded(*nodes, **weights)).nodes}
    assert (found["it"].integer, found["it"].rule) == (False, rule)
