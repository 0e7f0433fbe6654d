"""Equalization moves scale between weights and keeps the function; the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import parse

from onnxopt.passes import shapes
from onnxopt.passes.base import Context
from onnxopt.quantize.equalize import EqualizePass

RANDOM = np.random.default_rng(2)


def weight(name: str, *shape: int, uneven: int | None = None) -> str:
    array = RANDOM.standard_normal(shape)
    if uneven is not None:
        along = [1] * len(shape)
        along[uneven] = -1
        array = array * np.geomspace(1, 0.01, shape[uneven]).reshape(along)
    text = ",".join(f"{value:.5f}" for value in array.reshape(-1))
    return f"float[{','.join(map(str, shape))}] {name} = {{{text}}}"


def chain(between: str, extra: str = "") -> str:
    return f"""
    g (float[1,3,6,6] x) => (float[1,5,6,6] y) <
      {weight("w1", 8, 3, 1, 1, uneven=0)}, {weight("b1", 8, uneven=0)},
      {weight("w2", 8, 1, 3, 3)}, {weight("w3", 5, 8, 1, 1)}{extra}>
    {{ [c1] a = Conv(x, w1, b1) {between}
       [c2] c = Conv<group = 8, pads = [1,1,1,1]>(b, w2) d = Relu(c) [c3] y = Conv(d, w3) }}"""


RESIDUAL = f"""
g (float[1,3,6,6] x) => (float[1,5,6,6] y) <
  {weight("w1", 8, 3, 1, 1, uneven=0)}, {weight("w2", 8, 8, 1, 1, uneven=0)},
  {weight("w3", 5, 8, 1, 1)}>
{{ [c1] a = Conv(x, w1) b = Relu(a) [c2] c = Conv(b, w2) d = Add(b, c) [c3] y = Conv(d, w3) }}"""

NORMALIZED = f"""
g (float[1,4,8] x) => (float[1,4,6] y, float[1,4,3] z) <
  {weight("s", 8, uneven=0)}, {weight("t", 8, uneven=0)}, {weight("w", 8, 6)}, {weight("v", 3, 8)},
  int64[2] flat = {{4, 8}}, int64[3] deep = {{1, 4, 3}}, {weight("u", 8, 3)}>
{{ [norm] a = LayerNormalization(x, s, t) y = MatMul(a, w) z = MatMul(a, u) }}"""


def run(model: ir.Model, feeds: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return list(session.run(None, feeds))


def equalized(text: str, shape: tuple[int, ...], **keywords: Any) -> tuple[Any, ...]:
    proto = parse(text)
    if "LayerNormalization" in text:
        proto.opset_import[0].version = 17
    model = ir.from_proto(proto)
    shapes.infer(model)
    feeds = [{"x": RANDOM.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    before, old = run(model, feeds[0]), spread(model, feeds)
    result = EqualizePass(feeds, threads=1, **keywords).run(model, Context())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = run(model, feeds[0])
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(after, before, strict=True))
    return result, old, spread(model, feeds)


def spread(model: ir.Model, feeds: list[dict[str, Any]]) -> float:
    """How far the channels of `a` lie apart: the largest over the smallest maximum."""
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.ValueInfoProto(name="a"))
    session = ort.InferenceSession(proto.SerializeToString())
    found = np.concatenate([session.run(["a"], feed)[0] for feed in feeds])
    axes = (0, 2, 3) if found.ndim == 4 else (0, 1)
    tops = np.abs(found).max(axis=axes)
    return float(tops.max() / tops.min())


@pytest.mark.parametrize("between", ["b = Relu(a)", "b = LeakyRelu(a)", "b = MaxPool"])
def test_channels_between_convolutions_come_nearer(between: str) -> None:
    between = between.replace("MaxPool", "MaxPool<kernel_shape = [1,1]>(a)")
    result, old, new = equalized(chain(between), (1, 3, 6, 6))
    assert result.hits["equalize"] >= 1
    assert new < 0.3 * old


def test_a_residual_stream_is_scaled_as_one() -> None:
    result, old, new = equalized(RESIDUAL, (1, 3, 6, 6))
    assert result.hits == {"equalize": 1}
    assert new < 0.5 * old


def test_products_behind_a_normalization_share_its_factors() -> None:
    result, old, new = equalized(NORMALIZED, (1, 4, 8))
    assert result.hits == {"equalize": 1}
    assert new < 0.3 * old


def test_strength_says_how_much_moves() -> None:
    _, old, half = equalized(RESIDUAL, (1, 3, 6, 6), strength=0.5)
    _, _, whole = equalized(RESIDUAL, (1, 3, 6, 6), strength=1.0)
    assert whole < half < old


def reasons(text: str, shape: tuple[int, ...] = (1, 3, 6, 6)) -> dict[str, str]:
    result, _, _ = equalized(text, shape)
    return {refusal.node: refusal.reason for refusal in result.refusals}


def test_a_clip_with_an_upper_bound_is_refused() -> None:
    text = chain("b = Clip(a, zero, six)", ", float zero = {0}, float six = {6}")
    assert reasons(text)["c1"] == "a Clip cuts scaled channels elsewhere"


def test_what_is_not_homogeneous_is_refused() -> None:
    assert reasons(chain("b = Sigmoid(a)"))["c1"] == "no factor passes through Sigmoid"


def test_a_stream_that_leaves_the_model_stays() -> None:
    text = RESIDUAL.replace("=> (float[1,5,6,6] y)", "=> (float[1,5,6,6] y, float[1,8,6,6] d)")
    assert "is an output of the model" in reasons(text)["c1"]


def test_a_sum_with_an_input_of_the_model_stays() -> None:
    text = RESIDUAL.replace("x) =>", "x, float[1,8,6,6] k) =>").replace("Add(b, c)", "Add(b, k)")
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    feed = {"x": np.ones((1, 3, 6, 6), np.float32), "k": np.ones((1, 8, 6, 6), np.float32)}
    result = EqualizePass([feed], threads=1).run(model, Context())
    assert "k is an input or a constant" in {refusal.reason for refusal in result.refusals}


def test_a_weight_that_others_read_too_stays_for_them() -> None:
    text = RESIDUAL.replace("float[1,5,6,6] y)", "float[1,5,6,6] y, float[1,8,6,6] z)").replace(
        "[c3] y", "z = Conv(x, w1) [c3] y"
    )
    result, _, _ = equalized(text, (1, 3, 6, 6))
    assert result.hits == {"equalize": 1}
