"""What became of each node of a quantized model, and why it stayed float where it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_graphs import Drawing

from onnxopt.quantize.proof import NodeProof, Proof, prove

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


@pytest.mark.parametrize(("rule", "op_type", "draw"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_float_node_says_why(rule: str, op_type: str, draw: Draw) -> None:
    found = of_type(prove(drawn(draw)), op_type)
    assert (found.kernel, found.integer, found.rule) == ("float", False, rule)
    assert found.reason and found.fix
