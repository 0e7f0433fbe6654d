"""Channels are put in another order where neighbours would overflow, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import parse

from onnxopt.passes import shapes
from onnxopt.quantize.order import free_channels, order_channels, spread
from onnxopt.quantize.saturation import kernel_rows, safe_scale

RANDOM = np.random.default_rng(5)


def weight(name: str, *shape: int) -> str:
    text = ",".join(f"{value:.4f}" for value in RANDOM.standard_normal(shape).reshape(-1))
    return f"float[{','.join(map(str, shape))}] {name} = {{{text}}}"


def heavy(name: str, rows: int, columns: int, *window: int) -> str:
    """Large weights of one sign in the first half of the channels, next to each other."""
    array = RANDOM.uniform(0.02, 0.05, (rows, columns, *window))
    array[:, : columns // 2] = RANDOM.uniform(0.9, 1.0, (rows, columns // 2, *window))
    text = ",".join(f"{value:.4f}" for value in array.reshape(-1))
    dims = ",".join(map(str, array.shape))
    return f"float[{dims}] {name} = {{{text}}}"


BOTTLENECK = f"""
g (float[1,3,6,6] x) => (float[1,5,6,6] y) <
  {weight("w1", 8, 3, 1, 1)}, {weight("b1", 8)}, {weight("w2", 8, 1, 3, 3)}, {weight("b2", 8)},
  {heavy("w3", 5, 8, 1, 1)}, float zero = {{0}}, float six = {{6}}, {weight("slope", 8, 1, 1)}>
{{ [c1] a = Conv(x, w1, b1) b = Clip(a, zero, six)
   [c2] c = Conv<group = 8, pads = [1,1,1,1]>(b, w2, b2) d = PRelu(c, slope) [c3] y = Conv(d, w3) }}
"""
SUMMED = f"""
g (float[1,3,6,6] x) => (float[1,4] y) <
  {weight("w1", 8, 3, 1, 1)}, {weight("w2", 8, 8, 1, 1)}, {heavy("w3", 4, 8)},
  {weight("w4", 8, 8, 1, 1)}>
{{ [c1] a = Conv(x, w1) [c2] b = Conv(a, w2) c = Add(a, b) [c4] gate = Conv(c, w4)
   s = Sigmoid(gate) t = Mul(c, s) p = GlobalAveragePool(t) f = Flatten(p)
   [c3] y = Gemm<transB = 1>(f, w3) }}
"""
ROWS = f"""
g (float[N,2,3] x) => (float[N,2,4] y) <
  {weight("w1", 3, 8)}, {weight("b1", 8)}, {heavy("u", 4, 8)}, int64[2] dims = {{8, 4}}>
{{ w3 = Transpose<perm = [1,0]>(u) [m1] a = MatMul(x, w1) b = Add(a, b1) c = Gelu(b)
   [m2] y = MatMul(c, w3) }}
"""


def model_of(text: str) -> ir.Model:
    proto = parse(text)
    proto.opset_import[0].version = 20
    model = ir.from_proto(proto)
    for node in list(model.graph):
        if node.op_type == "Transpose" and node.inputs[0] is not None:
            array = node.inputs[0].const_value
            assert array is not None
            tensor = ir.tensor(np.ascontiguousarray(array.numpy().T), name="w3")
            value = ir.Value(name="w3", const_value=tensor, type=ir.TensorType(tensor.dtype))
            value.shape = ir.Shape(tensor.shape)
            model.graph.register_initializer(value)
            node.outputs[0].name = "old"
            for use in list(node.outputs[0].uses()):
                use.node.replace_input_with(use.idx, value)
            model.graph.remove(node, safe=True)
    shapes.infer(model)
    return model


def run(model: ir.Model, shape: tuple[int, ...]) -> Any:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString())
    return session.run(None, {"x": np.random.default_rng(1).standard_normal(shape, np.float32)})[0]


def coarseness(model: ir.Model, name: str) -> float:
    """How much coarser safe scales are than those of the largest weight, at worst."""
    node = next(node for node in model.graph if node.name == name)
    tensor = node.inputs[1].const_value  # type: ignore[union-attr]
    assert tensor is not None
    axis = 0 if node.op_type != "MatMul" else 1
    rows = kernel_rows(tensor.numpy(), node.op_type, axis)
    return float((safe_scale(rows) * 127 / np.abs(rows).max(axis=1)).max())


@pytest.mark.parametrize(
    ("text", "shape", "reader"),
    [
        (BOTTLENECK, (1, 3, 6, 6), "c3"),
        (SUMMED, (1, 3, 6, 6), "c3"),
        (ROWS, (5, 2, 3), "m2"),
    ],
    ids=["depthwise", "sum, gate and pool", "rows"],
)
def test_scales_get_finer_and_outputs_stay(text: str, shape: tuple[int, ...], reader: str) -> None:
    model = model_of(text)
    before, coarse = run(model, shape), coarseness(model, reader)
    assert coarse > 1.5
    assert order_channels(model) >= 1
    assert coarseness(model, reader) < 1.1
    np.testing.assert_allclose(run(model, shape), before, rtol=1e-4, atol=1e-5)


def test_windows_keep_their_neighbours_too() -> None:
    model = model_of(
        BOTTLENECK.replace(" y = Conv(d, w3)", " y = Conv<pads = [1,1,1,1]>(d, w3)").replace(
            heavy_text(), heavy("w3", 5, 8, 3, 3)
        )
    )
    before, coarse = run(model, (1, 3, 6, 6)), coarseness(model, "c3")
    assert order_channels(model) == 1
    assert coarseness(model, "c3") < 1.1 < 1.5 < coarse
    np.testing.assert_allclose(run(model, (1, 3, 6, 6)), before, rtol=1e-4, atol=1e-4)


def heavy_text() -> str:
    start = BOTTLENECK.index("float[5,8,1,1]")
    return BOTTLENECK[start : BOTTLENECK.index("}", start) + 1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float[1,5,6,6] y)", "float[1,5,6,6] y, float[1,8,6,6] d)"),
        ("d = PRelu(c, slope)", "k = ReduceMax(c) d = PRelu(c, slope)"),
        ("d = PRelu(c, slope)", "e = Softmax<axis = 1>(c) d = PRelu(e, slope)"),
    ],
    ids=["output", "another reader", "across channels"],
)
def test_channels_that_something_else_looks_at_stay(old: str, new: str) -> None:
    model = model_of(BOTTLENECK.replace(old, new))
    assert free_channels(model) == []
    assert order_channels(model) == 0


def test_a_weight_that_others_read_too_stays_for_them() -> None:
    text = BOTTLENECK.replace("float[1,5,6,6] y)", "float[1,5,6,6] y, float[1,8,6,6] z)").replace(
        "[c1] a", "z = Conv(x, w1, b1) [c1] a"
    )
    model = model_of(text)
    proto = ir.to_proto(model)
    feed = {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 6), np.float32)}
    before = ort.InferenceSession(proto.SerializeToString()).run(None, feed)
    assert order_channels(model) == 1
    after = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feed)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-4, atol=1e-5)


def test_an_order_is_a_permutation_that_overflows_less() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 64))
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    order = spread(rows)
    assert order is not None
    assert sorted(order) == list(range(64))
    assert safe_scale(rows[:, order]).sum() < safe_scale(rows).sum()


def test_what_does_not_overflow_keeps_its_order() -> None:
    alternating = np.tile([1.0, -1.0], (4, 8))
    assert spread(alternating) is None
    assert spread(np.ones((4, 7))) is None
