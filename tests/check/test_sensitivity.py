"""Noise of the size of a rounding, and what it may excuse."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.check.compare import Measure, measure
from onnxopt.check.sensitivity import explains, input_noise, shaken_feed, shaken_model
from onnxopt.config import Exactness


def model(inputs: str, body: str, more: str = "") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[] y) {more} {{ {body} }}'
    )


@pytest.mark.parametrize(
    ("inputs", "body", "noise"),
    [
        ("float[2] x", "y = Neg(x)", 1e-6),
        ("double[2] x", "y = Neg(x)", 2e-15),
        ("float16[2] x", "y = Neg(x)", 1e-3),
        ("float[2] x", "a = Cast<to = 10>(x)  y = Cast<to = 1>(a)", 1e-3),
        ("int64[2] x", "y = Cast<to = 1>(x)", 1e-6),
    ],
)
def test_the_coarsest_type_computed_in_sets_the_noise(inputs, body, noise):
    assert input_noise(model(inputs, body)) == noise


def test_floats_move_a_little_and_whole_numbers_strings_and_ids_stay():
    feed = {
        "x": np.float32([0.5, 3.0, -0.0, np.inf, np.nan]),
        "ids": np.array([1, 2]),
        "words": np.array(["a"], object),
        "none": None,
        "list": [np.float32([0.1])],
    }
    shaken = shaken_feed(feed, 1e-6, seed=0)
    moved = shaken["x"] != feed["x"]
    assert moved.tolist() == [True, False, False, False, True]
    assert abs(shaken["x"][0] - 0.5) < 1e-5
    assert np.signbit(shaken["x"][2])
    assert shaken["list"][0] != feed["list"][0]
    assert all(shaken[name] is feed[name] for name in ("ids", "words", "none"))


def test_weights_move_in_a_copy_scalars_and_whole_numbers_do_not():
    original = model(
        "float[2] x",
        "c = Constant<value = float[2] {0.1, 2}>()  a = Mul(x, w)  b = Add(a, c)  y = Mul(b, s)",
        "<float[2] w = {0.3, 4}, float[1] s = {0.7}>",
    )
    copy = shaken_model(original, 1e-5, seed=0)

    def numbers(of: ir.Model) -> dict[str, list[float]]:
        found = {name: v.const_value.numpy() for name, v in of.graph.initializers.items()}
        (node,) = [node for node in of.graph if node.op_type == "Constant"]
        return found | {"c": node.attributes["value"].as_tensor().numpy()}

    before, after = numbers(original), numbers(copy)
    assert {name: (before[name] != after[name]).tolist() for name in before} == {
        "w": [True, False],
        "c": [True, False],
        "s": [False],
    }


def test_a_flip_is_excused_by_flips_of_the_reference_only():
    def flips(count: int, by: float = 1.0) -> Measure:
        left = np.zeros(1000, np.float32)
        right = left.copy()
        right[:count] = by
        return measure(left, right, Exactness.CLOSE)

    assert explains([flips(3)], flips(5))
    assert not explains([flips(3)], flips(50))
    assert not explains([flips(3)], flips(3, by=5.0))
    assert not explains([flips(0)], flips(1))
    assert not explains([], flips(1))


def test_another_type_is_never_excused():
    left = np.zeros(3, np.float32)
    wrong = measure(left, left.astype(np.float64), Exactness.CLOSE)
    assert not explains([wrong], wrong)


def test_another_number_of_rows_is_excused_only_where_the_reference_varies_too():
    rows = [np.zeros((n, 4), np.float32) for n in range(10)]
    fewer = measure(rows[5], rows[4], Exactness.CLOSE)
    assert explains([fewer], fewer)
    assert not explains([measure(rows[5], rows[5], Exactness.CLOSE)], fewer)
    assert not explains([fewer], measure(rows[5], rows[1], Exactness.CLOSE))
