"""Statistics of channels, along the axis where a value has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.errors import BadInput
from onnxopt.quantize.channels import channel_axis, channel_statistics


def load(text: str) -> ir.Model:
    return ir.from_proto(parse(text))


def feeds(*shapes: tuple[int, ...]) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [{"x": (5 + random.standard_normal(shape)).astype(np.float32)} for shape in shapes]


IMAGE = """g (float[N,3,H,W] x) => (float[N,2,H,W] y) <float[2,3,1,1] w = {1,2,3,4,5,6}>
{ a = Abs(x) y = Conv(a, w) }"""
ROWS = """g (float[N,S,3] x) => (float[N,S,2] y) <float[3,2] w = {1,2,3,4,5,6}>
{ a = Abs(x) y = MatMul(a, w) }"""


def test_the_channels_of_an_image_lie_along_its_second_axis() -> None:
    data = feeds((2, 3, 4, 5), (1, 3, 7, 2))
    found = channel_statistics(load(IMAGE), data, ["a"], threads=1)["a"]
    turned = [np.abs(feed["x"]).transpose(1, 0, 2, 3).reshape(3, -1) for feed in data]
    whole = np.concatenate(turned, axis=1)
    np.testing.assert_allclose(found.mean, whole.mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found.low, whole.min(axis=1))
    np.testing.assert_array_equal(found.high, whole.max(axis=1))
    assert (found.count, found.axis) == (54, 1)


def test_the_channels_of_rows_lie_along_their_last_axis() -> None:
    data = feeds((2, 4, 3), (1, 9, 3))
    found = channel_statistics(load(ROWS), data, ["a"], threads=1)["a"]
    whole = np.concatenate([np.abs(feed["x"]).reshape(-1, 3) for feed in data])
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.high, whole.max(axis=0))
    assert (found.count, found.axis) == (17, 2)


def test_an_axis_that_the_caller_names_counts() -> None:
    found = channel_statistics(load(ROWS), feeds((2, 4, 3)), ["a"], axes={"a": -2}, threads=1)
    assert (found["a"].mean.size, found["a"].axis) == (4, 1)


@pytest.mark.parametrize(
    ("text", "name", "axis"),
    [
        (IMAGE, "x", 1),
        (ROWS, "x", 2),
        ("g (float[N,2,L] x) => (float[N,2,L] y) <float[2,1,1] w = {1,2}> "
         "{ a = Conv<group = 2>(x, w) y = Relu(a) }", "y", 1),
        ("g (float[N,2,L] x) => (float[N,2,L] y) { y = Relu(x) }", "y", 2),
        ("g (float[N,2,H,W] x) => (float[N,2,H,W] y) { y = Relu(x) }", "y", 1),
        ("g (float[N,2,H,W] x) => (float[N,2,H,W] y) { y = Softmax(x) }", "x", 3),
        ("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", "y", 1),
    ],
)  # fmt: skip
def test_the_operators_around_a_value_tell_its_axis(text: str, name: str, axis: int) -> None:
    graph = load(text).graph
    values = {value.name: value for node in graph for value in (*node.inputs, *node.outputs)}
    value = values[name]
    rank = len(graph.inputs[0].shape or ())
    assert value is not None and channel_axis(value, rank) == axis


def test_a_quantized_model_has_statistics_too() -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <float s = {0.1}, uint8 z = {10}>
    { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    found = channel_statistics(load(text), feeds((50, 2)), ["x", "y"], threads=1)
    assert np.abs(found["x"].mean - found["y"].mean).max() < 0.05
    np.testing.assert_allclose(found["y"].low, np.rint(found["x"].low * 10) / 10, atol=1e-6)


def test_channels_that_change_in_number_are_an_error() -> None:
    text = "g (float[N,C] x) => (float[N,C] y) { y = Relu(x) }"
    with pytest.raises(BadInput, match="2 channels in one sample and 3 in another"):
        channel_statistics(load(text), feeds((1, 2), (1, 3)), ["y"], threads=1)
