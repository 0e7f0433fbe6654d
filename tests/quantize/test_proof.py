"""What became of each node of a quantized model, and why it stayed float where it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser
from quantize_graphs import Drawing, reads_the_table

from onnxopt.errors import RuntimeFailed
from onnxopt.quantize.proof import NodeProof, Proof, prove
from onnxopt.quantize.reasons import rule_names
from onnxopt.quantize.reasons_weights import WEIGHT_ONLY

IMAGE = (1, 8, 6, 6)
Draw = Callable[[Drawing], "list[str] | str"]
CASES: list[tuple[str, str, Draw]] = []


def case(rule: str, op_type: str) -> Callable[[Draw], Draw]:
    """A graph in which nodes of this type stay float for this reason."""

    def add(draw: Draw) -> Draw:
        CASES.append((rule, op_type, draw))
        return draw

    return add


def drawn(draw: Draw) -> onnx.ModelProto:
    g = Drawing()
    outputs = draw(g)
    return g.model(*([outputs] if isinstance(outputs, str) else outputs))


def of_type(proof: Proof, op_type: str) -> NodeProof:
    (found,) = [node for node in proof.nodes if node.op_type == op_type]
    return found


def conv(g: Drawing, x: str | None = None, **attributes: Any) -> str:
    x = g.pair(g.input(*IMAGE)) if x is None else x
    return g.node("Conv", x, g.weight(8, 8, 3, 3), **attributes)


@case("no-integer-kernel", "Tanh")
def _(g: Drawing) -> str:
    return g.pair(g.node("Tanh", g.pair(g.input(*IMAGE))))


@case("no-integer-kernel", "ConvTranspose")
def _(g: Drawing) -> str:
    return g.pair(g.node("ConvTranspose", g.pair(g.input(*IMAGE)), g.weight(8, 8, 3, 3)))


@case("activation-alone", "Relu")
def _(g: Drawing) -> str:
    return g.pair(g.node("Relu", g.pair(conv(g))))


@case("code-type", "Conv")
def _(g: Drawing) -> str:
    return g.pair(conv(g, g.pair(g.input(*IMAGE), dtype=np.uint16)), dtype=np.uint16)


@case("computed-scale", "Reshape")
def _(g: Drawing) -> str:
    scale, zero = g.input(), g.constant(np.uint8(128))
    q = g.node("QuantizeLinear", g.input(*IMAGE), scale, zero)
    y = g.node("Reshape", g.node("DequantizeLinear", q, scale, zero), g.constant(np.array([1, -1])))
    return g.node("DequantizeLinear", g.node("QuantizeLinear", y, scale, zero), scale, zero)


@case("activation-per-channel", "Transpose")
def _(g: Drawing) -> str:
    both = [g.constant(np.full(8, 0.02, "f4")), g.constant(np.full(8, 128, "u1"))]
    q = g.node("QuantizeLinear", g.input(*IMAGE), *both, axis=1)
    y = g.node("Transpose", g.node("DequantizeLinear", q, *both, axis=1), perm=[0, 1, 3, 2])
    q = g.node("QuantizeLinear", y, *both, axis=1)
    return g.node("DequantizeLinear", q, *both, axis=1)


@case("matmul-add", "MatMul")
@case("matmul-add", "Add")
def _(g: Drawing) -> str:
    m = g.node("MatMul", g.pair(g.input(4, 8)), g.weight(8, 16))
    return g.node("Tanh", g.node("Add", m, g.weight(16, dtype=np.uint8)))


@case("weight-only", "Conv")
def _(g: Drawing) -> str:
    return conv(g, g.input(*IMAGE))


@case("weight-only", "MatMul")
def _(g: Drawing) -> str:
    return g.node("MatMul", g.input(4, 8), g.weight(8, 16, axis=0))


@case("float-input", "Concat")
def _(g: Drawing) -> str:
    x = g.input(*IMAGE)
    return g.pair(g.node("Concat", g.pair(x), x, axis=1))


@case("float-input", "Add")
def _(g: Drawing) -> str:
    return g.pair(g.node("Add", g.pair(g.input(*IMAGE)), g.normal(8, 1, 1)))


@case("float-input", "Gemm")
def _(g: Drawing) -> str:
    return g.node("Gemm", g.pair(g.input(4, 8)), g.weight(8, 16), g.normal(16))


@case("graph-output", "Conv")
def _(g: Drawing) -> list[str]:
    c = conv(g)
    return [c, g.pair(c)]


@case("two-quantizers", "Conv")
def _(g: Drawing) -> list[str]:
    c = conv(g)
    return [g.pair(c), g.pair(c, 0.03)]


@case("activation-between", "Conv")
def _(g: Drawing) -> str:
    return g.pair(g.node("HardSigmoid", conv(g)))


@case("activation-between", "Conv")
def _(g: Drawing) -> str:
    return g.pair(g.node("Relu", conv(g)))


@case("no-quantizer-after", "Conv")
def _(g: Drawing) -> str:
    return g.node("Tanh", conv(g))


@case("float-reader", "Conv")
def _(g: Drawing) -> list[str]:
    c = conv(g)
    return [g.pair(c), g.node("Tanh", c)]


@case("signed-activations", "Add")
def _(g: Drawing) -> str:
    p = g.pair(g.input(*IMAGE), dtype=np.int8)
    return g.pair(g.node("Add", p, p), dtype=np.int8)


@case("signed-constant", "Mul")
def _(g: Drawing) -> str:
    return g.pair(g.node("Mul", g.pair(g.input(*IMAGE)), g.weight(8, 1, 1)))


@case("bias-scale", "Conv")
def _(g: Drawing) -> str:
    x = g.pair(g.input(*IMAGE))
    return g.pair(g.node("Conv", x, g.weight(8, 8, 3, 3), g.bias(8, 0.1)))


@case("gemm-factor", "Gemm")
def _(g: Drawing) -> str:
    return g.pair(g.node("Gemm", g.pair(g.input(4, 8)), g.weight(8, 16), g.bias(16), alpha=2.0))


@case("resize-mode", "Resize")
def _(g: Drawing) -> str:
    sizes = g.constant(np.array([1, 1, 2, 2], "f4"))
    return g.pair(g.node("Resize", g.pair(g.input(*IMAGE)), "", sizes, mode="linear"))


@case("scales-differ", "Transpose")
def _(g: Drawing) -> str:
    return g.pair(g.node("Transpose", g.pair(g.input(*IMAGE))), 0.03)


@case("weight-coding", "Conv")
def _(g: Drawing) -> str:
    x = g.pair(g.input(*IMAGE))
    return g.pair(g.node("Conv", x, g.weight(8, 8, 3, 3, dtype=np.int16)))


@case("opset", "MaxPool")
def _(g: Drawing) -> str:
    g.opset = 11
    return g.pair(g.node("MaxPool", g.pair(g.input(*IMAGE)), kernel_shape=[2, 2]))


def test_every_reason_has_a_case() -> None:
    # test_modes_weights.py has those of products that only have their weights in codes.
    elsewhere = {"scale-type", "declined", *(name for name, _ in WEIGHT_ONLY)}
    assert {rule for rule, _, _ in CASES} | elsewhere == set(rule_names())


@reads_the_table
@pytest.mark.parametrize(("rule", "op_type", "draw"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_float_node_says_why(rule: str, op_type: str, draw: Draw) -> None:
    found = of_type(prove(drawn(draw)), op_type)
    assert (found.kernel, found.integer, found.rule) == ("float", False, rule)
    assert found.reason and found.fix


def test_float16_scales_keep_a_node_float() -> None:
    g = Drawing()
    both = [g.constant(np.float16(0.02)), g.constant(np.uint8(128))]
    x = g.node("QuantizeLinear", g.input(*IMAGE, dtype=TensorProto.FLOAT16), *both)
    y = g.node("GlobalAveragePool", g.node("DequantizeLinear", x, *both))
    y = g.node("DequantizeLinear", g.node("QuantizeLinear", y, *both), *both)
    g.output(y, dtype=TensorProto.FLOAT16)
    assert of_type(prove(g.model()), "GlobalAveragePool").rule == "scale-type"


def kernels(draw: Draw) -> dict[str, str]:
    return {node.op_type: node.kernel for node in prove(drawn(draw)).nodes}


def test_what_a_kernel_takes_in_runs_in_it() -> None:
    def absorbed(g: Drawing) -> str:
        return g.pair(g.node("Relu", conv(g)), zero=0)

    def joined(g: Drawing) -> str:
        m = g.node("MatMul", g.pair(g.input(2, 4, 8)), g.weight(8, 16))
        return g.node("Tanh", g.node("Add", m, g.bias(16)))

    assert kernels(absorbed) == {"Conv": "QLinearConv", "Relu": "QLinearConv"}
    assert kernels(joined) == {"MatMul": "QGemm", "Add": "QGemm"}


def test_codes_are_moved_by_the_operator_itself() -> None:
    def draw(g: Drawing) -> str:
        c = g.pair(conv(g))
        pooled = g.pair(g.node("MaxPool", c, kernel_shape=[2, 2]))
        return g.pair(g.node("Flatten", pooled))

    proof = prove(drawn(draw))
    assert of_type(proof, "MaxPool").kernel == "NhwcMaxPool"
    assert of_type(proof, "Flatten").kernel == "Flatten"
    assert proof.stayed_float == ()


def test_where_pairs_only_end_nothing_was_intended() -> None:
    def draw(g: Drawing) -> str:
        return g.node("Tanh", g.pair(conv(g, g.pair(g.node("Sin", g.input(*IMAGE))))))

    proof = prove(drawn(draw))
    assert {node.op_type: node.intended for node in proof.nodes} == {
        "Conv": True, "Sin": False, "Tanh": False,
    }  # fmt: skip
    assert proof.borders == {"QuantizeLinear": 1, "DequantizeLinear": 1}


def test_nodes_without_names_and_models_in_memory_are_told_apart() -> None:
    model = drawn(lambda g: [g.pair(conv(g)), g.node("Tanh", conv(g))])
    for node in model.graph.node:
        node.ClearField("name")
    before = model.SerializeToString()
    first, second = [node for node in prove(model).nodes if node.op_type == "Conv"]
    assert (first.kernel, second.kernel) == ("QLinearConv", "float")
    assert first.name.startswith("Conv of ")
    assert model.SerializeToString() == before


def test_bodies_of_control_flow_are_proven_too() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (bool c, float[4,8] x) => (float[4,8] y)
        <float s = {0.02}, uint8 z = {128}>
        {
            y = If (c) <
                then_branch = t () => (float[4,8] a) {
                    q = QuantizeLinear(x, s, z)
                    d = DequantizeLinear(q, s, z)
                    m = Sigmoid(d)
                    n = QuantizeLinear(m, s, z)
                    a = DequantizeLinear(n, s, z)
                },
                else_branch = e () => (float[4,8] b) { b = Identity(x) }
            >
        }
    """)
    assert of_type(prove(model), "Sigmoid").kernel == "QLinearSigmoid"


def test_dynamic_quantization_is_proven_by_the_operators_it_is_written_with() -> None:
    def draw(g: Drawing) -> str:
        codes, scale, zero = g.node("DynamicQuantizeLinear", g.input(4, 8), count=3)
        weight, its_zero = g.constant(np.ones((8, 16), np.int8)), g.constant(np.int8(0))
        sums = g.node("MatMulInteger", codes, weight, zero, its_zero)
        factor = g.node("Mul", scale, g.constant(np.float32(0.01)))
        return g.node("Mul", g.node("Cast", sums, to=TensorProto.FLOAT), factor)

    assert of_type(prove(drawn(draw)), "MatMulInteger").kernel == "DynamicQuantizeMatMul"


def test_a_model_that_does_not_load_is_an_error() -> None:
    model = drawn(lambda g: g.pair(conv(g)))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RuntimeFailed, match="can't show what it makes"):
        prove(model)


CONTRIB = {
    "DynamicQuantizeMatMul": lambda g: g.node(
        "DynamicQuantizeMatMul", g.input(4, 8), *coded(g, 8, 16), contrib=True
    ),
    "MatMulIntegerToFloat": lambda g: g.node(
        "MatMulIntegerToFloat",
        *(c := g.node("DynamicQuantizeLinear", g.input(4, 8), count=3))[:1],
        (w := coded(g, 8, 16))[0], c[1], w[1], c[2], w[2], contrib=True,
    ),
    "MatMulNBits": lambda g: g.node(
        "MatMulNBits", g.input(4, 32), g.constant(np.zeros((16, 1, 16), np.uint8)),
        g.constant(np.ones((16, 1), np.float32)), K=32, N=16, bits=4, block_size=32, contrib=True,
    ),
    "DynamicQuantizeLSTM": lambda g: g.node(
        "DynamicQuantizeLSTM", g.input(5, 1, 8), (w := coded(g, 1, 8, 64))[0],
        (r := coded(g, 1, 16, 64))[0], "", "", "", "", "",
        *w[1:], *r[1:], hidden_size=16, contrib=True,
    ),
}  # fmt: skip


def coded(g: Drawing, *shape: int) -> tuple[str, str, str]:
    """Codes of a weight with a scale and a zero point for each column."""
    columns = shape[-1:] if len(shape) == 2 else (1, shape[-1])
    return (
        g.constant(g.random.integers(-60, 60, shape).astype(np.int8)),
        g.constant(np.full(columns, 0.01, np.float32)),
        g.constant(np.zeros(columns, np.int8)),
    )


@pytest.mark.parametrize("op_type", CONTRIB)
def test_operators_without_calibration_are_their_own_kernels(op_type: str) -> None:
    proof = prove(drawn(CONTRIB[op_type]))
    found = of_type(proof, op_type)
    # onnxruntime joins a product to the quantization of its input where nothing else reads that.
    joined = {"MatMulIntegerToFloat": "DynamicQuantizeMatMul"}
    assert (found.kernel, found.integer) == (joined.get(op_type, op_type), True)
    assert proof.stayed_float == ()
