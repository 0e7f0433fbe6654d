"""What onnxruntime's CPU provider makes of Q/DQ pairs: the table that the quantizer is built on.

Every row is a small graph and the operators of the graph that onnxruntime saves after optimizing
it. Where a new onnxruntime fails here, onnxopt.quantize.placement and reasons need its new facts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from mode_models import RUNTIME
from onnx import TensorProto
from quantize_graphs import Drawing, reads_the_table

from onnxopt.errors import RuntimeFailed
from onnxopt.quantize.lint import lint
from onnxopt.quantize.placement import MOVES_ANY_CODE
from onnxopt.runtime.sessions import Session, optimized_graph

pytestmark = reads_the_table

IMAGE = (1, 8, 6, 6)
BYTES = {"QuantizeLinear", "DequantizeLinear"}


def operators(model: onnx.ModelProto) -> list[str]:
    """What runs, without Q, DQ and the Transposes around channels-last kernels."""
    nodes = optimized_graph(model).graph.node
    integer = any(node.op_type == "QLinearConv" for node in nodes)
    hidden = BYTES | ({"Transpose"} if integer else set())
    return [node.op_type for node in nodes if node.op_type not in hidden]


def reads_codes(model: onnx.ModelProto, op_type: str) -> bool:
    """Whether the one node of this type takes 8-bit codes."""
    nodes = optimized_graph(model).graph.node
    codes = {name for node in nodes if node.op_type == "QuantizeLinear" for name in node.output}
    (node,) = [node for node in nodes if node.op_type == op_type]
    return node.input[0] in codes


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def conv(
    end: Callable[[Drawing, str], list[str]] | None = None,
    *,
    data: dict[str, Any] | None = None,
    weight: Callable[[Drawing], str] = lambda g: g.weight(8, 8, 3, 3, axis=0),
    bias: Callable[[Drawing], str] | None = None,
    opset: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """A convolution of a quantized input; `end` draws what follows it, a pair if not given."""
    g = Drawing(opset)
    x = g.pair(g.input(*IMAGE), **(data or {}))
    inputs = [x, weight(g), *([] if bias is None else [bias(g)])]
    c = g.node("Conv", *inputs, **attributes)
    return g.model(*([g.pair(c)] if end is None else end(g, c)))


def shaped(image: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """A convolution over any number of axes."""
    g = Drawing()
    x = g.pair(g.input(*image))
    return g.model(g.pair(g.node("Conv", x, g.weight(*weight, axis=0), **attributes)))


def of_microsoft() -> onnx.ModelProto:
    g = Drawing()

    def pair(value: str) -> str:
        both = g.parameters()
        q = g.node("QuantizeLinear", value, *both, contrib=True)
        return g.node("DequantizeLinear", q, *both, contrib=True)

    return g.model(pair(g.node("Conv", pair(g.input(*IMAGE)), g.weight(8, 8, 3, 3))))


def coded_interface(dtype: Any) -> onnx.ModelProto:
    """A model that takes and gives codes."""
    kind = TensorProto.INT8 if dtype == np.int8 else TensorProto.UINT8
    g = Drawing()
    x = g.dequantize(g.input(*IMAGE, dtype=kind), dtype=dtype)
    g.output(g.quantize(g.node("Conv", x, g.weight(8, 8, 3, 3)), dtype=dtype), dtype=kind)
    return g.model()


def single(op_type: str, *extra: Any, after: dict[str, Any] | None = None, **attributes: Any):
    """A pair, the operator, a pair."""
    g = Drawing()
    x = g.pair(g.input(*IMAGE))
    y = g.node(op_type, x, *[g.constant(each) for each in extra], **attributes)
    return g.model(g.pair(y, **(after or {})))


def product(
    end: Callable[[Drawing, str], str],
    *shape: int,
    weight: Callable[[Drawing], str] = lambda g: g.weight(8, 16),
    data: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """A MatMul of a quantized input, and what `end` draws after it."""
    g = Drawing()
    x = g.pair(g.input(*(shape or (4, 8))), **(data or {}))
    return g.model(end(g, g.node("MatMul", x, weight(g))))


def gemm(
    bias: Callable[[Drawing], str] | None, *, ends: bool, weight: Any = None, **attributes: Any
) -> onnx.ModelProto:
    g = Drawing()
    x = g.pair(g.input(4, 8))
    w = g.weight(8, 16) if weight is None else weight(g)
    y = g.node("Gemm", x, w, *([] if bias is None else [bias(g)]), **attributes)
    return g.model(g.pair(y) if ends else y)


def two_operands(op_type: str, second: Callable[[Drawing], str], relu: bool = False):
    g = Drawing()
    x = g.pair(g.input(*IMAGE))
    y = g.node(op_type, x, second(g))
    return g.model(g.pair(g.node("Relu", y), zero=0) if relu else g.pair(y))


def clipped(highest: float, scale: float) -> onnx.ModelProto:
    def end(g: Drawing, c: str) -> list[str]:
        bounds = g.constant(np.float32(0)), g.constant(np.float32(highest))
        return [g.pair(g.node("Clip", c, *bounds), scale, 0)]

    return conv(end)


def activated(op_type: str, **after: Any) -> onnx.ModelProto:
    return conv(lambda g, c: [g.pair(g.node(op_type, c), **after)])


def weight_only(op_type: str, axis: int | None = None) -> onnx.ModelProto:
    g = Drawing()
    x = g.input(*(IMAGE if op_type == "Conv" else (4, 8)))
    w = g.weight(*((8, 8, 3, 3) if op_type == "Conv" else (8, 16)), axis=axis)
    return g.model(g.node(op_type, x, w))


def spread(g: Drawing, *shape: int, axis: int) -> str:
    """A weight whose scales along an axis are far from each other."""
    codes = g.constant(g.random.integers(-64, 64, shape).astype(np.int8))
    scales = np.geomspace(1e-3, 1e-1, shape[axis]).astype(np.float32)
    zeros = np.zeros(shape[axis], np.int8)
    return g.node("DequantizeLinear", codes, g.constant(scales), g.constant(zeros), axis=axis)


def recurrent(op_type: str, gates: int) -> onnx.ModelProto:
    g = Drawing()
    w, r = g.weight(1, 4 * gates, 8), g.weight(1, 4 * gates, 4)
    return g.model(g.pair(g.node(op_type, g.pair(g.input(5, 1, 8)), w, r, hidden_size=4)))


def float_input() -> onnx.ModelProto:
    g = Drawing()
    return g.model(g.pair(g.node("Conv", g.input(*IMAGE), g.weight(8, 8, 3, 3))))


CONVOLUTIONS = {
    "int8 weight per channel": conv(),
    "int8 weight per tensor": conv(weight=lambda g: g.weight(8, 8, 3, 3)),
    "uint8 weight": conv(weight=lambda g: g.weight(8, 8, 3, 3, dtype=np.uint8)),
    "depthwise": conv(weight=lambda g: g.weight(8, 1, 3, 3, axis=0), group=8),
    "grouped": conv(weight=lambda g: g.weight(8, 4, 3, 3, axis=0), group=2),
    "int32 bias": conv(bias=lambda g: g.bias(8), weight=lambda g: g.weight(8, 8, 3, 3)),
    "float constant bias": conv(bias=lambda g: g.normal(8)),
    "float constant weight": conv(weight=lambda g: g.normal(8, 8, 3, 3)),
    "Relu before a Q that starts at 0": activated("Relu", zero=0),
    "int8: Relu before a Q that starts at 0": conv(
        lambda g, c: [g.pair(g.node("Relu", c), zero=-128, dtype=np.int8)], data={"dtype": np.int8}
    ),
    "Clip to 6 before a Q that ends there": clipped(6, 6 / 255),
    "Clip to 6 before a Q that ends lower": clipped(6, 4 / 255),
    **{
        f"opset {version}": conv(opset=version, weight=lambda g: g.weight(8, 8, 3, 3))
        for version in (10, 11, 13, 19, 23)
    },
    "one axis": shaped((1, 8, 20), (8, 8, 3)),
    "one axis, depthwise": shaped((1, 8, 20), (8, 1, 3), group=8),
    "three axes": shaped((1, 4, 5, 5, 5), (8, 4, 3, 3, 3)),
    "scales of rank 1": conv(lambda g, c: [g.pair(c, [0.03], [128])]),
    "pairs of com.microsoft": of_microsoft(),
    "codes in, codes out": coded_interface(np.uint8),
    "int8 activations with one reader": conv(
        lambda g, c: [g.pair(c, dtype=np.int8)], data={"dtype": np.int8}
    ),
    "one Q with two DQ": conv(
        lambda g, c: [g.dequantize(q := g.quantize(c)), g.dequantize(q)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_between_pairs_runs_in_integers(case: str) -> None:
    assert operators(CONVOLUTIONS[case]) == ["QLinearConv"]


def fan_out() -> onnx.ModelProto:
    def end(g: Drawing, c: str) -> list[str]:
        p = g.pair(c, dtype=np.int8)
        return [g.pair(g.node("Add", p, p), dtype=np.int8)]

    return conv(end, data={"dtype": np.int8})


FLOAT_CONVOLUTIONS = {
    "no Q after it": conv(lambda g, c: [c]),
    "also a graph output": conv(lambda g, c: [g.pair(c), c]),
    "two different Q": conv(lambda g, c: [g.pair(c), g.pair(c, 0.03)]),
    "a float reader": conv(lambda g, c: [g.pair(c), g.node("Tanh", c)]),
    "Relu before a Q that starts below 0": activated("Relu"),
    "Sigmoid before the Q": activated("Sigmoid"),
    "LeakyRelu before the Q": activated("LeakyRelu"),
    "Clip to 6 before a Q that ends higher": clipped(6, 8 / 255),
    "the bias has another scale": conv(
        bias=lambda g: g.bias(8, 0.1), weight=lambda g: g.weight(8, 8, 3, 3)
    ),
    "16 bits": conv(lambda g, c: [g.pair(c, dtype=np.uint16)], data={"dtype": np.uint16}),
    "int8 codes with two readers": fan_out(),
    "int8 codes come in and go out": coded_interface(np.int8),
    "only the weight is quantized": weight_only("Conv"),
    "no Q before it": float_input(),
}


@pytest.mark.parametrize("case", FLOAT_CONVOLUTIONS)
def test_a_convolution_stays_float(case: str) -> None:
    assert "QLinearConv" not in operators(FLOAT_CONVOLUTIONS[case])


ACTIVATIONS = ("Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Sigmoid", "Tanh")


@pytest.mark.parametrize("op_type", ACTIVATIONS)
def test_an_activation_blocks_a_convolution_unless_a_pair_stands_before_it(op_type: str) -> None:
    before = conv(lambda g, c: [g.pair(g.node(op_type, g.pair(c)))])
    assert "QLinearConv" not in operators(activated(op_type))
    assert "QLinearConv" in operators(before)


def test_a_spelled_out_silu_runs_in_integers_throughout() -> None:
    def end(g: Drawing, c: str) -> list[str]:
        p = g.pair(c)
        return [g.pair(g.node("Mul", p, g.pair(g.node("Sigmoid", p), 1 / 256, 0)))]

    assert operators(conv(end)) == ["QLinearConv", "QLinearSigmoid", "QLinearMul"]


def test_the_basic_level_makes_no_integer_kernel(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    onnxruntime.InferenceSession(
        conv().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert "Conv" in {node.op_type for node in onnx.load(tmp_path / "basic.onnx").graph.node}


def both_ways(model: onnx.ModelProto) -> float:
    """Signal to noise of the optimized model against what it says, in dB."""
    random = np.random.default_rng(0)
    feeds = {
        i.name: random.standard_normal(
            [dim.dim_value for dim in i.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for i in model.graph.input
    }
    said, given = (
        Session.open(model, optimize=on, threads=1).run(feeds)[0].astype(np.float64)
        for on in (False, True)
    )
    return float(10 * np.log10(np.square(said).sum() / max(np.square(said - given).sum(), 1e-30)))


GARBAGE = {
    "Conv, scales along the input channels": conv(weight=lambda g: spread(g, 8, 8, 3, 3, axis=1)),
    "MatMul, scales along the rows": product(
        lambda g, m: g.pair(m), weight=lambda g: spread(g, 8, 8, axis=0)
    ),
    "Gemm, a bias of another scale": gemm(lambda g: g.bias(16, 0.02), ends=True),
}  # fmt: skip


@pytest.mark.parametrize("case", GARBAGE)
def test_what_onnxruntime_computes_wrong_without_a_word_is_a_fault(case: str) -> None:
    # Since 1.32 a MatMul with scales along the rows stays float; users of others have the file too.
    mended = RUNTIME >= (1, 32) and case.startswith("MatMul")
    assert (both_ways(GARBAGE[case]) < 15) != mended
    kinds = {fault.kind for fault in lint(GARBAGE[case])}
    assert kinds & {"wrong-axis", "wrong-bias-scale"}


def test_scales_along_the_rows_of_a_matrix_that_is_not_square_fail_at_run_time() -> None:
    model = product(lambda g, m: g.pair(m), weight=lambda g: spread(g, 8, 16, axis=0))
    if RUNTIME < (1, 32):
        with pytest.raises(RuntimeFailed):
            both_ways(model)
    assert "wrong-axis" in {fault.kind for fault in lint(model)}


def test_float16_convolutions_stay_float() -> None:
    g = Drawing()
    x = g.input(*IMAGE, dtype=TensorProto.FLOAT16)
    both = [g.constant(np.float16(0.02)), g.constant(np.uint8(128))]
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, *both), *both)
    w = g.constant(np.zeros((8, 8, 3, 3), np.int8))
    scale = [g.constant(np.float16(0.01)), g.constant(np.int8(0))]
    c = g.node("Conv", x, g.node("DequantizeLinear", w, *scale))
    y = g.node("DequantizeLinear", g.node("QuantizeLinear", c, *both), *both)
    g.output(y, dtype=TensorProto.FLOAT16)
    assert "QLinearConv" not in operators(g.model())


def test_without_zero_points_a_convolution_fuses_and_a_reshape_does_not() -> None:
    def model(op_type: str, *inputs: Any) -> onnx.ModelProto:
        g = Drawing()
        scale = g.constant(np.float32(0.02))
        x = g.node("DequantizeLinear", g.node("QuantizeLinear", g.input(*IMAGE), scale), scale)
        y = g.node(op_type, x, *[each(g) for each in inputs])
        return g.model(g.node("DequantizeLinear", g.node("QuantizeLinear", y, scale), scale))

    assert operators(model("Conv", lambda g: g.weight(8, 8, 3, 3))) == ["QLinearConv"]
    assert not reads_codes(model("Reshape", lambda g: g.constant(ints(1, -1))), "Reshape")


DENSE = {
    "MatMul, Q": (product(lambda g, m: g.pair(m)), ["QLinearMatMul"]),
    "MatMul with scales along the last axis": (
        product(lambda g, m: g.pair(m), weight=lambda g: g.weight(8, 16, axis=1)),
        ["QLinearMatMul"],
    ),
    "MatMul with a uint8 weight": (
        product(lambda g, m: g.pair(m), weight=lambda g: g.weight(8, 16, dtype=np.uint8)),
        ["QLinearMatMul"],
    ),
    "MatMul, float output": (product(lambda g, m: m), ["MatMulIntegerToFloat"]),
    "MatMul of two activations": (
        product(lambda g, m: m, weight=lambda g: g.pair(g.input(8, 16))),
        ["MatMulIntegerToFloat"],
    ),
    "MatMul of two activations, Q": (
        product(lambda g, m: g.pair(m), weight=lambda g: g.pair(g.input(8, 16))),
        ["QLinearMatMul"],
    ),
    "MatMul of 16 bits": (
        product(lambda g, m: g.pair(m, dtype=np.uint16), data={"dtype": np.uint16}),
        ["MatMul" if RUNTIME < (1, 32) else "MatMulNBits"],
    ),
    "MatMul of int8 activations": (
        product(lambda g, m: m, data={"dtype": np.int8}),
        ["MatMulIntegerToFloat"],
    ),
    "MatMul, Add of a float constant, Q": (
        product(lambda g, m: g.pair(g.node("Add", m, g.normal(16)))),
        ["QGemm"],
    ),
    "the same in 3-D": (
        product(lambda g, m: g.pair(g.node("Add", m, g.normal(16))), 2, 4, 8),
        ["Reshape", "QGemm", "Reshape"],
    ),
    "the trap: MatMul, Add of a float constant, float output": (
        product(lambda g, m: g.node("Add", m, g.normal(16))),
        ["Gemm"],
    ),
    "the trap in 3-D": (
        product(lambda g, m: g.node("Add", m, g.normal(16)), 2, 4, 8),
        ["Reshape", "Gemm", "Reshape"],
    ),
    "out of the trap: an int32 bias": (
        product(lambda g, m: g.node("Add", m, g.bias(16))),
        ["QGemm"],
    ),
    "out of the trap in 3-D": (
        product(lambda g, m: g.node("Add", m, g.bias(16)), 2, 4, 8),
        ["Reshape", "QGemm", "Reshape"],
    ),
    "the trap: MatMul, Add of a uint8 constant, Q": (
        product(lambda g, m: g.pair(g.node("Add", m, g.weight(16, dtype=np.uint8)))),
        ["Gemm"],
    ),
    "out of the trap: a pair between MatMul and Add": (
        product(lambda g, m: g.pair(g.node("Add", g.pair(m), g.weight(16, dtype=np.uint8)))),
        ["QLinearMatMul", "QLinearAdd"],
    ),
    "Gemm, int32 bias, Q": (gemm(lambda g: g.bias(16), ends=True), ["QGemm"]),
    "Gemm, int32 bias, float output": (gemm(lambda g: g.bias(16), ends=False), ["QGemm"]),
    "Gemm without bias": (gemm(None, ends=False), ["QGemm"]),
    "Gemm, float constant bias, Q": (gemm(lambda g: g.normal(16), ends=True), ["QGemm"]),
    "Gemm, float constant bias, float output": (
        gemm(lambda g: g.normal(16), ends=False),
        ["Gemm"],
    ),
    "Gemm with transB, scales along axis 0": (
        gemm(None, ends=True, weight=lambda g: g.weight(16, 8, axis=0), transB=1),
        ["QGemm"],
    ),
    "Gemm with alpha": (gemm(lambda g: g.bias(16), ends=True, alpha=2.0), ["Gemm"]),
    "Gemm with beta": (gemm(lambda g: g.bias(16), ends=True, beta=2.0), ["Gemm"]),
    "Gemm, a bias of another scale is not noticed": (
        gemm(lambda g: g.bias(16, 0.1), ends=True),
        ["QGemm"],
    ),
}


@pytest.mark.parametrize("case", DENSE)
def test_a_dense_product(case: str) -> None:
    model, wanted = DENSE[case]
    assert operators(model) == wanted


ARITHMETIC = {
    "AveragePool": single("AveragePool", kernel_shape=[2, 2]),
    "GlobalAveragePool": single("GlobalAveragePool"),
    "LeakyRelu": single("LeakyRelu"),
    "Sigmoid": single("Sigmoid", after={"scale": 1 / 256, "zero": 0}),
    "Softmax": single("Softmax", after={"scale": 1 / 256, "zero": 0}),
    "Add": two_operands("Add", lambda g: g.pair(g.input(*IMAGE), 0.03)),
    "Mul": two_operands("Mul", lambda g: g.pair(g.input(*IMAGE), 0.03)),
    "Add with Relu": two_operands("Add", lambda g: g.pair(g.input(*IMAGE)), relu=True),
    "Add of a uint8 constant": two_operands("Add", lambda g: g.weight(8, 1, 1, dtype=np.uint8)),
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_has_a_kernel_of_its_own(case: str) -> None:
    assert operators(ARITHMETIC[case]) == [f"QLinear{case.split()[0]}"]


def wide_sum() -> onnx.ModelProto:
    g = Drawing()
    x, y = (g.pair(g.input(*IMAGE), dtype=np.uint16) for _ in range(2))
    return g.model(g.pair(g.node("Add", x, y), dtype=np.uint16))


BLOCKED = {
    "Add of an int8 constant": two_operands("Add", lambda g: g.weight(8, 1, 1)),
    "Mul of an int8 constant": two_operands("Mul", lambda g: g.weight(8, 1, 1)),
    "Add of a float constant": two_operands("Add", lambda g: g.normal(8, 1, 1)),
    "Add of 16 bits": wide_sum(),
    "Mul of a float": two_operands("Mul", lambda g: g.input(*IMAGE)),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_arithmetic_stays_float(case: str) -> None:
    assert operators(BLOCKED[case]) == [case.split()[0]]


def concat(second: Callable[[Drawing], str]) -> onnx.ModelProto:
    g = Drawing()
    return g.model(g.pair(g.node("Concat", g.pair(g.input(*IMAGE)), second(g), axis=1), 0.04))


def test_a_concat_changes_scales_for_free_and_needs_all_inputs_quantized() -> None:
    assert operators(concat(lambda g: g.pair(g.input(*IMAGE), 0.03))) == ["QLinearConcat"]
    assert operators(concat(lambda g: g.input(*IMAGE))) == ["Concat"]


def test_a_where_takes_a_float_constant() -> None:
    def where(other: Callable[[Drawing], str]) -> onnx.ModelProto:
        g = Drawing()
        condition = g.constant(np.ones((1, 8, 1, 1), bool))
        return g.model(g.pair(g.node("Where", condition, g.pair(g.input(*IMAGE)), other(g))))

    assert operators(where(lambda g: g.pair(g.input(*IMAGE)))) == ["QLinearWhere"]
    assert operators(where(lambda g: g.constant(np.float32(0.5)))) == ["QLinearWhere"]
    assert operators(where(lambda g: g.input(*IMAGE))) == ["Where"]


def split(scale: float) -> onnx.ModelProto:
    g = Drawing()
    pieces = g.node("Split", g.pair(g.input(*IMAGE)), count=2, axis=1, num_outputs=2)
    return g.model(*[g.pair(piece, scale) for piece in pieces])


def test_a_split_moves_codes_where_all_scales_are_equal() -> None:
    assert reads_codes(split(0.02), "Split")
    assert not reads_codes(split(0.03), "Split")


MOVING: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "Reshape": ((ints(1, -1),), {}),
    "Transpose": ((), {"perm": [0, 3, 1, 2]}),
    "Flatten": ((), {}),
    "Squeeze": ((ints(0),), {}),
    "Unsqueeze": ((ints(0),), {}),
    "Slice": ((ints(0), ints(2), ints(1)), {}),
    "Gather": ((ints(1, 2),), {"axis": 1}),
    "GatherElements": ((np.zeros(IMAGE, np.int64),), {}),
    "Tile": ((ints(1, 2, 1, 1),), {}),
    "Expand": ((ints(2, 8, 6, 6),), {}),
    "DepthToSpace": ((), {"blocksize": 2}),
    "MaxPool": ((), {"kernel_shape": [2, 2]}),
    "ReduceMax": ((ints(2),), {}),
    "ReduceMin": ((ints(2),), {}),
    "Resize": ((np.float32([]), np.float32([1, 1, 2, 2])), {"mode": "nearest"}),
}


@pytest.mark.parametrize("op_type", MOVING)
def test_codes_are_moved_where_both_scales_are_equal(op_type: str) -> None:
    extra, attributes = MOVING[op_type]
    assert reads_codes(single(op_type, *extra, **attributes), op_type)
    other = single(op_type, *extra, after={"scale": 0.03}, **attributes)
    assert not reads_codes(other, op_type)


@pytest.mark.parametrize("op_type", MOVING)
def test_only_some_movers_take_codes_of_16_bits(op_type: str) -> None:
    extra, attributes = MOVING[op_type]
    g = Drawing()
    x = g.pair(g.input(*IMAGE), dtype=np.uint16)
    y = g.node(op_type, x, *[g.constant(each) for each in extra], **attributes)
    model = g.model(g.pair(y, dtype=np.uint16))
    assert reads_codes(model, op_type) == (op_type in MOVES_ANY_CODE)


def test_pairs_are_carried_through_some_movers_and_not_through_others() -> None:
    def chain(op_type: str, *extra: Any, shape: tuple[int, ...], **attributes: Any):
        g = Drawing()
        y = g.node("GlobalAveragePool", g.pair(g.input(*IMAGE)))
        y = g.node(op_type, y, *[g.constant(each) for each in extra], **attributes)
        return operators(g.model(g.pair(y)))

    assert chain("Flatten", shape=(1, 8)) == ["GlobalAveragePool", "Flatten"]
    assert chain("Reshape", ints(1, 8), shape=(1, 8)) == ["QLinearGlobalAveragePool", "Reshape"]


def test_an_arg_max_reads_codes() -> None:
    g = Drawing()
    y = g.node("ArgMax", g.pair(g.input(*IMAGE)))
    g.output(y, dtype=TensorProto.INT64)
    assert reads_codes(g.model(), "ArgMax")


def test_only_nearest_resizes_move_codes() -> None:
    for mode in ("linear", "cubic"):
        extra = (np.float32([]), np.float32([1, 1, 2, 2]))
        assert not reads_codes(single("Resize", *extra, mode=mode), "Resize")


ONES = np.ones(8, np.float32)
NEVER: dict[str, onnx.ModelProto] = {
    "ConvTranspose": two_operands("ConvTranspose", lambda g: g.weight(8, 8, 3, 3)),
    **{
        op: two_operands(op, lambda g: g.pair(g.input(*IMAGE)))
        for op in ("Sub", "Div", "Max", "Min", "Pow")
    },
    **{op: single(op) for op in ("Relu", "Tanh", "HardSigmoid", "Elu", "Erf", "Sqrt", "Exp")},
    **{op: single(op) for op in ("Gelu", "GlobalMaxPool", "Neg", "Abs")},
    "ReduceMean": single("ReduceMean", ints(2)),
    "ReduceSum": single("ReduceSum", ints(2)),
    "Pad": single("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "PRelu": single("PRelu", np.ones((8, 1, 1), np.float32)),
    "LayerNormalization": single("LayerNormalization", np.ones(6, np.float32)),
    "InstanceNormalization": single("InstanceNormalization", ONES, ONES),
    "BatchNormalization": single("BatchNormalization", ONES, ONES, ONES, ONES),
    "SpaceToDepth": single("SpaceToDepth", blocksize=2),
    "Mish": single("Mish"),
    "LSTM": recurrent("LSTM", 4),
    "GRU": recurrent("GRU", 3),
    "GatherND": single("GatherND", np.zeros((1, 4), np.int64)),
    "Einsum": single("Einsum", equation="abcd->acdb"),
}


@pytest.mark.parametrize("op_type", NEVER)
def test_never_in_integers(op_type: str) -> None:
    found = optimized_graph(NEVER[op_type]).graph.node
    assert not any(node.op_type.startswith("Q") and node.op_type not in BYTES for node in found)
    assert sum(node.op_type == "QuantizeLinear" for node in found) >= 2


def test_a_spelled_out_hard_swish_stays_float_between_its_pairs() -> None:
    assert operators(single("HardSwish")) == ["HardSigmoid", "Mul"]


def blocks(
    op_type: str, block: int, axis: int, dtype: Any = ml_dtypes.int4, rows: int = 96
) -> onnx.ModelProto:
    g = Drawing()
    x = g.input(4, rows)
    shape = (rows // block, 32) if axis == 0 else (rows, 32 // block)
    codes, scale = g.constant(np.ones((rows, 32), dtype)), g.constant(np.full(shape, 0.1, "f4"))
    w = g.node("DequantizeLinear", codes, scale, axis=axis, block_size=block)
    return g.model(g.node(op_type, x, w))


WEIGHT_ONLY = {
    "MatMul, int4 in blocks of 32": (blocks("MatMul", 32, 0), "MatMulNBits"),
    "MatMul, int4 in blocks of 16": (blocks("MatMul", 16, 0), "MatMulNBits"),
    "MatMul, uint4": (blocks("MatMul", 32, 0, ml_dtypes.uint4), "MatMulNBits"),
    "MatMul, int8 in blocks of 32": (blocks("MatMul", 32, 0, np.int8), "MatMulNBits"),
    "Gemm, int4 in blocks of 32": (blocks("Gemm", 32, 0), "MatMulNBits"),
    "MatMul, int8 per channel": (weight_only("MatMul", axis=1), "MatMulNBits"),
    "MatMul, int8 per tensor": (weight_only("MatMul"), "MatMulNBits"),
    "Gemm, int8 per channel": (weight_only("Gemm", axis=1), "MatMulNBits"),
    "MatMul, int4 in blocks of 8": (blocks("MatMul", 8, 0), "MatMul"),
    "MatMul, int4 in blocks of 24": (blocks("MatMul", 24, 0), "MatMul"),
    "MatMul, int4 in blocks along axis 1": (blocks("MatMul", 16, 1), "MatMul"),
    "MatMul, int8 with scales along axis 0": (weight_only("MatMul", axis=0), "MatMul"),
}


@pytest.mark.parametrize("case", WEIGHT_ONLY)
def test_only_the_weight_is_quantized(case: str) -> None:
    model, wanted = WEIGHT_ONLY[case]
    assert operators(model) == [wanted]
