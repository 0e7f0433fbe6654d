"""What counts as a difference, and how large it is."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from onnxopt.check.compare import OutputDifference, compare, tolerance_for
from onnxopt.config import Exactness, Tolerance
from onnxopt.errors import BadInput

EXACT, CLOSE, LOSSY = Exactness.EXACT, Exactness.CLOSE, Exactness.LOSSY
ONE = Tolerance(absolute=1.0, relative=0.0)


def one(left, right, tolerance=CLOSE) -> OutputDifference:
    (found,) = compare([left], [right], ["y"], tolerance)
    return found


def f32(*numbers):
    return np.array(numbers, np.float32)


def test_identical_outputs_are_perfect():
    found = one(f32(1, -2, 3), f32(1, -2, 3), EXACT)
    assert found == OutputDifference("y", "float32", 0.0, 0.0, 1.0, math.inf, True)


def test_the_numbers_of_a_known_difference():
    found = one(f32(3, 4), f32(3, 5), Tolerance(absolute=0.1, relative=0.1))
    assert (found.max_abs, found.passed) == (1.0, False)
    assert found.worst == pytest.approx(1.0 / (0.1 + 0.1 * 4))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25))
    assert found.cosine == pytest.approx((9 + 20) / (5 * math.sqrt(34)))
    assert found.reason == "1 of 2 elements are off by up to 2 times the tolerance"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_a_scale_off_by_a_thousandth_is_caught_at_any_size(scale):
    values = np.linspace(-1, 1, 50, dtype=np.float32) * np.float32(scale)
    assert one(values, values * np.float32(1 + 1e-6)).passed
    assert not one(values, values * np.float32(1.001)).passed


def test_the_bound_follows_the_largest_finite_number():
    left = f32(1000, 0.001, math.inf)
    assert one(left, f32(1000, 0.0012, math.inf)).passed
    assert not one(left[1:], f32(0.0012, math.inf)).passed


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, -math.inf),
        (math.inf, 1.0),
        (math.nan, math.inf),
    ],
)
def test_what_is_not_finite_must_be_so_on_both_sides(left, right):
    for tolerance in (EXACT, CLOSE, LOSSY):
        found = one(f32(left, 2), f32(right, 2), tolerance)
        assert not found.passed
        assert "1 of 2 elements are NaN or infinite on one side" in found.reason


def test_nan_and_infinities_in_the_same_places_agree():
    values = f32(math.nan, math.inf, -math.inf, 1)
    assert one(values, values.copy(), EXACT).passed


def test_negative_zero_differs_only_when_bits_count():
    found = one(f32(0.0, 1), f32(-0.0, 1), EXACT)
    assert not found.passed
    assert "the sign of zero" in found.reason
    assert one(f32(0.0, 1), f32(-0.0, 1), CLOSE).passed


def test_the_last_bit_counts_only_for_exact():
    left, right = f32(1.0), np.nextafter(f32(1.0), f32(2.0))
    assert one(left, right, CLOSE).passed
    assert math.isinf(one(left, right, EXACT).worst)


@pytest.mark.parametrize("exactness", [EXACT, CLOSE])
def test_whole_numbers_and_booleans_must_be_equal(exactness):
    assert not one(np.array([1, 2]), np.array([1, 3]), exactness).passed
    assert not one(np.array([True]), np.array([False]), exactness).passed
    assert one(np.array([True]), np.array([True]), exactness).passed


def test_lossy_steps_may_move_numbers_but_not_types_or_shapes():
    assert one(np.array([1, 2]), np.array([1, 3]), LOSSY).passed
    assert one(f32(1, 2), f32(1.5, 1.4), LOSSY).passed
    assert not one(f32(1, 2), f32(9, 9), LOSSY).passed
    assert not one(f32(1, 2), f32(1), LOSSY).passed


def test_large_integers_are_not_merged_by_floats():
    left = np.array([2**62, -(2**62)])
    assert not one(left, left + 1).passed
    assert one(left, left + 1).max_abs == 1.0


@pytest.mark.parametrize(
    ("dtype", "noise", "fault"),
    [
        (np.float64, 1e-11, 1e-7),
        (np.float16, 0.001, 0.03),
        (ml_dtypes.bfloat16, 0.008, 0.2),
        (ml_dtypes.float8_e4m3fn, 0.125, 0.6),
    ],
)
def test_coarser_types_get_coarser_bounds(dtype, noise, fault):
    def moved(by: float) -> np.ndarray:
        return np.array([0.25, 1.0 + by]).astype(dtype)

    assert one(moved(0), moved(noise)).passed
    assert not one(moved(0), moved(fault)).passed
    assert one(moved(0), moved(0)).dtype == np.dtype(dtype).name


def test_one_step_of_an_eight_bit_float_may_flip():
    left = np.array([1.0, 1.125]).astype(ml_dtypes.float8_e4m3fn)
    assert one(left, left[::-1].copy(), CLOSE).passed
    assert not one(left, left[::-1].copy(), EXACT).passed


def test_another_type_or_shape_says_which():
    assert "float64, it was float32" in one(f32(1), np.array([1.0])).reason
    assert "[2, 1], it was [2]" in one(f32(1, 2), f32(1, 2).reshape(2, 1)).reason


def test_empty_and_scalar_tensors():
    empty = np.zeros((0, 3), np.float32)
    assert one(empty, empty).passed
    assert not one(empty, np.zeros((0, 4), np.float32)).passed
    assert one(np.float32(2), np.float32(2), EXACT).passed
    assert not one(np.array(2.0, np.float32), np.array(3.0, np.float32)).passed


def test_strings_are_compared_letter_by_letter():
    left = np.array([["a", "ü"]], object)
    assert one(left, left.copy(), EXACT).passed
    found = one(left, np.array([["a", "u"]], object))
    assert found.reason == "1 of 2 strings differ"
    assert one(left, np.array([["a", "ü"]])).passed


def test_sequences_are_compared_item_by_item():
    left = [f32(1, 2), f32(3)]
    assert one(left, [f32(1, 2), f32(3)], EXACT).passed
    assert "at [1]" in one(left, [f32(1, 2), f32(4)]).reason
    assert "structure" in one(left, [f32(1, 2)]).reason


def test_maps_are_compared_key_by_key():
    left = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}]
    assert one(left, [{1: 0.75, 0: 0.25}, {0: 0.5, 1: 0.5}]).passed
    assert not one(left, [{0: 0.25, 1: 0.75}, {0: 0.6, 1: 0.4}]).passed
    assert "structure" in one(left, [{0: 0.25, 2: 0.75}, {0: 0.5, 1: 0.5}]).reason
    assert one({"a": 1.0}, {"a": 1.0 + 1e-7}).passed


def test_an_empty_optional_equals_only_itself():
    assert one(None, None).passed
    assert not one(None, f32(1)).passed
    assert not one([None], [f32(1)]).passed


def test_complex_numbers():
    left = np.array([1 + 2j], np.complex64)
    assert one(left, left, EXACT).passed
    assert not one(left, left + np.complex64(1e-3j)).passed


def test_tensors_larger_than_a_block_add_up():
    left = np.ones(3 << 20, np.float32)
    right = left.copy()
    right[-1] = 3
    found = one(left, right, ONE)
    assert (found.max_abs, found.worst, found.passed) == (2.0, 2.0, False)
    assert found.sqnr_db == pytest.approx(10 * math.log10((3 << 20) / 4))


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(BadInput, match="2 outputs with 1"):
        compare([f32(1), f32(1)], [f32(1)], ["a", "b"])


def test_exactness_decides_the_tolerance():
    assert tolerance_for(EXACT, np.float32) == Tolerance(0.0, 0.0)
    assert tolerance_for(CLOSE, np.float32).relative <= 1e-4
    assert tolerance_for(CLOSE, np.complex64) == tolerance_for(CLOSE, np.float32)
    assert tolerance_for(CLOSE, np.int64).absolute < 1
