"""Few pictures are seen from both sides, where that is the same to the model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnxopt import io
from onnxopt.prune.mirror import FEW, Mirrored, width_of, with_mirrored

SIDES = "y = ReduceMax<keepdims = 0>(x, axes)"
LEFT = "l = Slice(x, zero, one, last) y = ReduceMax<keepdims = 0>(l, axes)"


def _model(body: str, output: str = "float[N, 3] y"):
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, 8, 8] x) => ({output})
    <int64[2] axes = {{2, 3}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] last = {{3}}>
    {{ {body} }}"""
    return io.load(parser.parse_model(text))


def _pictures(count: int, rows: int = 1) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(rows, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_pictures_that_keep_their_class_come_from_both_sides() -> None:
    feeds = _pictures(12)
    found = list(with_mirrored(feeds, feeds[:3], _model(SIDES)))
    assert len(found) == 24
    for start, count in ((0, 5), (10, 5), (20, 2)):
        for at in range(start, start + count):
            assert np.array_equal(found[at + count]["x"], found[at]["x"][..., ::-1])


def test_one_that_is_kept_apart_for_its_number_is_kept_apart_as_both() -> None:
    feeds = [{"x": np.full((1, 3, 8, 8), number, np.float32)} for number in range(20)]
    apart = [feed for number, feed in enumerate(Mirrored(feeds, 3), 1) if number % 5 == 0]
    assert [feed["x"][0, 0, 0, 0] for feed in apart] == [4, 4, 9, 9, 14, 14, 19, 19]


@pytest.mark.parametrize(
    ("body", "output", "count", "rows"),
    [
        pytest.param(LEFT, "float[N, 3] y", 20, 1, id="what is left and right matters"),
        pytest.param("y = Identity(x)", "float[N, 3, 8, 8] y", 20, 1, id="no scores of classes"),
        pytest.param(SIDES, "float[N, 3] y", FEW // 5, 1, id="many pictures"),
        pytest.param(SIDES, "float[N, 3] y", FEW // 50, 10, id="many pictures in few runs"),
    ],
)
def test_others_stay_as_they_are(body: str, output: str, count: int, rows: int) -> None:
    held = _pictures(count, rows)
    assert with_mirrored(held, held, _model(body, output)) is held


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 3, 8, 9), 3), ((1, 8, 9, 3), 2), ((1, 16, 9, 9), None), ((2, 5), None)],
)
def test_pictures_are_known_by_their_channels(shape, axis) -> None:
    assert width_of({"x": np.zeros(shape, np.float32)}) == axis
    assert width_of({"x": np.zeros(shape, np.int64)}) is None
