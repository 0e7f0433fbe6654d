"""Linear values are moved around zero, their readers make up for it, and outputs stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import parse

from onnxopt.passes import shapes
from onnxopt.quantize.centre import centre_channels, linear_streams

RANDOM = np.random.default_rng(9)


def weight(name: str, *shape: int, scale: float = 1.0) -> str:
    array = RANDOM.standard_normal(shape) * scale
    text = ",".join(f"{value:.4f}" for value in array.reshape(-1))
    return f"float[{','.join(map(str, shape))}] {name} = {{{text}}}"


STREAM = f"""
g (float[1,3,6,6] x) => (float[1,5,6,6] y) <
  {weight("w1", 8, 3, 1, 1)}, {weight("b1", 8, scale=20)}, {weight("w2", 8, 8, 1, 1)},
  {weight("w3", 8, 8, 1, 1)}, {weight("b3", 8, scale=20)}, {weight("w4", 5, 8, 1, 1)},
  {weight("b4", 5)}>
{{ [c1] a = Conv(x, w1, b1) [c2] b = Conv(a, w2) c = Relu(b) [c3] d = Conv(c, w3, b3)
   e = Add(a, d) [c4] y = Conv(e, w4, b4) }}
"""
ROWS = f"""
g (float[4,3] x) => (float[4,5] y) <
  {weight("w1", 3, 8)}, {weight("b1", 8, scale=20)}, {weight("w2", 5, 8)}, {weight("b2", 5)}>
{{ [c1] a = Gemm(x, w1, b1) [c2] y = Gemm<transB = 1>(a, w2, b2) }}
"""


def model_of(text: str) -> ir.Model:
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    return model


def feeds(shape: tuple[int, ...]) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    return [{"x": random.standard_normal(shape, np.float32)} for _ in range(4)]


def run(model: ir.Model, feed: dict[str, Any], *names: str) -> list[Any]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return list(ort.InferenceSession(proto.SerializeToString()).run(None, feed))


@pytest.mark.parametrize(
    ("text", "shape", "values"),
    [(STREAM, (1, 3, 6, 6), ("a", "d", "e")), (ROWS, (4, 3), ("a",))],
    ids=["residual stream", "rows"],
)
def test_ranges_shrink_and_outputs_stay(
    text: str, shape: tuple[int, ...], values: tuple[str, ...]
) -> None:
    model, data = model_of(text), feeds(shape)
    before = run(model, data[0], *values)
    assert centre_channels(model, data, threads=1) == 1
    after = run(model, data[0], *values)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-3)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert np.ptp(new) < 0.7 * np.ptp(old)


def test_a_reader_in_groups_takes_its_own_channels() -> None:
    text = STREAM.replace(weight_text("w4"), weight("w4", 4, 4, 1, 1)).replace(
        "Conv(e, w4, b4)", "Conv<group = 2>(e, w4)"
    )
    text = text.replace("float[1,5,6,6] y", "float[1,4,6,6] y")
    model, data = model_of(text), feeds((1, 3, 6, 6))
    before = run(model, data[0])
    assert centre_channels(model, data, threads=1) == 1
    np.testing.assert_allclose(run(model, data[0])[0], before[0], rtol=1e-4, atol=1e-3)


def weight_text(name: str) -> str:
    end = STREAM.index(f"] {name} = ")
    start = STREAM.rindex("float[", 0, end)
    return STREAM[start : STREAM.index("}", end) + 1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Conv(e, w4, b4)", "Conv<pads = [1,1,1,1]>(e, w4, b4)"),
        ("Conv(e, w4, b4)", 'Conv<auto_pad = "SAME_UPPER">(e, w4, b4)'),
        ("e = Add(a, d)", "k = Relu(d) e = Add(a, k)"),
        ("e = Add(a, d)", "e = Mul(a, d)"),
        ("(float[1,5,6,6] y)", "(float[1,5,6,6] y, float[1,8,6,6] e)"),
    ],
    ids=["padded", "padded by itself", "activation", "product", "output"],
)
def test_a_stream_that_a_shift_would_change_stays(old: str, new: str) -> None:
    text = STREAM.replace(old, new).replace("float[1,5,6,6] y", "float[1,5,H,W] y")
    model = model_of(text)
    assert not any("a" in {v.name for v in each.values} for each in linear_streams(model))
    assert centre_channels(model, feeds((1, 3, 6, 6)), threads=1) == 0


def test_channels_around_zero_stay() -> None:
    text = STREAM.replace("b1 = {", "old1 = {").replace("b3 = {", "old3 = {")
    text = text.replace("Conv(x, w1, b1)", "Conv(x, w1)")
    text = text.replace("Conv(c, w3, b3)", "Conv(x, w1)")
    model = model_of(text)
    data = [*feeds((1, 3, 6, 6)), *({"x": -feed["x"]} for feed in feeds((1, 3, 6, 6)))]
    assert centre_channels(model, data, threads=1) == 0
