"""A quantized student: its codes are trained through the rounding, its scales stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxopt
from onnxopt import io
from onnxopt.distill.module import GraphModule
from onnxopt.distill.train import trained
from onnxopt.runtime.sessions import evaluate
from tests.distill.models import classifier, model, rows

F = np.float32

STORED = """
g (float[n,3] x) => (float[n,2] y) {
  xq = QuantizeLinear(x, sx, zx)
  xd = DequantizeLinear(xq, sx, zx)
  wd = DequantizeLinear<axis = 1>(w, sw, zw)
  bd = DequantizeLinear<axis = 0>(b, sb)
  h = MatMul(xd, wd)
  y = Add(h, bd)
}
"""


def _constants() -> dict[str, Any]:
    return {
        "sx": np.array(0.05, F),
        "zx": np.array(-3, np.int8),
        "w": np.array([[10, -20], [127, 5], [-128, 0]], np.int8),
        "sw": np.array([0.02, 0.01], F),
        "zw": np.zeros(2, np.int8),
        "b": np.array([30, -40], np.int32),
        "sb": np.array([0.001, 0.0005], F),
    }


def _numbers(graph: Any) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in io.to_proto(graph).graph.initializer}


def _module() -> tuple[Any, GraphModule]:
    graph = model(STORED, _constants())
    return graph, GraphModule(graph, ("y",), train=True)


def test_it_computes_what_onnxruntime_computes() -> None:
    graph, module = _module()
    feed = rows(5, inputs=3)
    with torch.no_grad():
        found = module(module.tensors(feed))["y"].numpy()
    np.testing.assert_allclose(found, evaluate(graph, feed)["y"], rtol=1e-5, atol=1e-6)


def test_codes_of_weights_and_biases_are_trained_and_scales_are_not() -> None:
    _, module = _module()
    assert {weight.name for weight in module.weights} == {"w", "b"}


def test_codes_that_nothing_moved_come_back_as_they_were() -> None:
    graph, module = _module()
    assert io.to_bytes(trained(graph, module)) == io.to_bytes(graph)


def test_a_gradient_goes_through_the_rounding_of_activations_and_weights() -> None:
    _, module = _module()
    tensors = module.tensors(rows(5, inputs=3))
    module(tensors)["y"].sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0


def test_no_gradient_where_an_activation_is_beyond_its_range() -> None:
    graph = model(
        "g (float[n,2] x) => (float[n,2] y)"
        "{ h = MatMul(x, w)  q = QuantizeLinear(h, s, z)  y = DequantizeLinear(q, s, z) }",
        {"w": np.eye(2, dtype=F), "s": np.array(0.1, F), "z": np.array(0, np.int8)},
    )
    module = GraphModule(graph, ("y",), train=True)
    module(module.tensors({"x": np.array([[1.0, 99.0]], F)}))["y"].sum().backward()
    gradient = next(module.parameters()).grad
    assert gradient is not None
    assert gradient[0, 0] == 1 and gradient[0, 1] == 0


def test_a_number_that_moved_by_a_step_of_its_scale_moves_its_code_by_one() -> None:
    graph, module = _module()
    with torch.no_grad():
        module.parameters_by_name["0"][0] += torch.tensor([0.02, 0.01])
    moved = _numbers(trained(graph, module))
    assert moved["w"].dtype == np.int8
    np.testing.assert_array_equal(moved["w"], [[11, -19], [127, 5], [-128, 0]])


def test_a_code_stays_within_its_type() -> None:
    graph, module = _module()
    with torch.no_grad():
        module.parameters_by_name["0"] += 9.0
    np.testing.assert_array_equal(_numbers(trained(graph, module))["w"], np.full((3, 2), 127))


@pytest.mark.parametrize("bits", ["stored as floats", "stored as codes"])
def test_distillation_brings_a_quantized_model_nearer_to_its_teacher(bits: str) -> None:
    teacher = classifier(6, seed=3)
    student = _coarse(teacher, coded=bits == "stored as codes")
    result = onnxopt.distill(
        teacher, student, data=rows(400), epochs=30, batch=20, learning_rate=5e-3, loss="mse"
    )
    assert result.report.best.held < 0.75 * result.report.curve[0].held
    assert result.report.coded == (4 if bits == "stored as codes" else 0) / 2
    before, after = io.to_proto(student), io.to_proto(result.model)
    assert [n.op_type for n in before.graph.node] == [n.op_type for n in after.graph.node]
    np.testing.assert_array_equal(_numbers(student)["s1"], _numbers(result.model)["s1"])


def _coarse(teacher: Any, *, coded: bool) -> Any:
    """The classifier with weights on few levels."""
    held = _numbers(teacher)
    constants = {"b1": held["b1"], "b2": held["b2"], "z": np.array(0, np.int8)}
    nodes = []
    for layer in ("1", "2"):
        weight = held[f"w{layer}"]
        scale = np.array(np.abs(weight).max() / 4, F)
        codes = np.clip(np.round(weight / scale), -128, 127).astype(np.int8)
        constants |= {f"s{layer}": scale, f"w{layer}": codes if coded else weight}
        if not coded:
            nodes.append(f"q{layer} = QuantizeLinear(w{layer}, s{layer}, z)")
        source = f"w{layer}" if coded else f"q{layer}"
        nodes.append(f"d{layer} = DequantizeLinear({source}, s{layer}, z)")
    return model(
        "g (float[n,8] x) => (float[n,3] y) {"
        + " ".join(nodes)
        + " h = Gemm(x, d1, b1)  r = Relu(h)  y = Gemm(r, d2, b2) }",
        constants,
    )
