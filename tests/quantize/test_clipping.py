"""Each method cuts where its own measure says."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.errors import BadInput
from onnxopt.quantize.clipping import clipping
from onnxopt.quantize.records import Range
from onnxopt.quantize.tally import Tally


def _cut(array: np.ndarray, method: str, percentile: float = 99.99) -> Range:
    tally = Tally.of(array.astype(np.float32), histogram=True)
    return clipping(method, percentile)(tally)


def _error(array: np.ndarray, found: Range) -> float:
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    codes = np.clip(np.rint(array / scale) + zero, 0, 255)
    return float((((codes - zero) * scale - array) ** 2).mean())


@pytest.fixture
def heavy_tails() -> np.ndarray:
    return np.random.default_rng(0).standard_t(3, 200_000)


def test_a_percentile_leaves_out_as_many_elements_as_it_says(heavy_tails: np.ndarray) -> None:
    found = _cut(heavy_tails, "percentile", 99.0)
    low, high = np.quantile(heavy_tails, [0.005, 0.995])
    width = np.abs(heavy_tails).max() / 1024
    assert found.low == pytest.approx(low, abs=width)
    assert found.high == pytest.approx(high, abs=width)


def test_the_hundredth_percentile_is_the_whole_range(heavy_tails: np.ndarray) -> None:
    assert _cut(heavy_tails, "percentile", 100) == _cut(heavy_tails, "minmax")


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_no_other_range_has_a_much_smaller_error(heavy_tails: np.ndarray, offset: float) -> None:
    array = heavy_tails[:20_000] + offset
    least, most, shares = min(0.0, array.min()), array.max(), np.linspace(0.1, 1, 19)
    ranges = [Range(least * low, most * high) for low in shares for high in shares]
    best = min(_error(array, found) for found in ranges)
    assert _error(array, _cut(array, "mse")) < 1.03 * best


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_even_numbers_are_not_cut(method: str) -> None:
    found = _cut(np.linspace(-3, 5, 100_001), method)
    assert found.low == pytest.approx(-3, rel=0.02)
    assert found.high == pytest.approx(5, rel=0.02)


def test_entropy_cuts_a_lone_outlier_off() -> None:
    array = np.append(np.random.default_rng(0).normal(size=100_000), 60.0)
    assert _cut(array, "entropy").high < 20


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile"])
def test_many_zeros_behind_a_relu_do_not_hide_the_rest(method: str) -> None:
    array = np.maximum(np.random.default_rng(0).normal(size=100_000) - 1, 0)
    found = _cut(array, method, 99.9)
    assert found.low == 0
    assert 1.5 < found.high <= array.max()


@pytest.mark.parametrize("method", ["minmax", "average", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("number", [0.0, 1.0, -7.5, 1e30, -1e-42])
def test_a_constant_tensor_has_the_range_of_its_one_number(method: str, number: float) -> None:
    found = _cut(np.full(10, number), method)
    assert found.low == found.high == np.float32(number)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_range_away_from_zero_stays_on_its_side(method: str) -> None:
    found = _cut(np.linspace(5, 6, 1000), method)
    assert 5 <= found.low <= found.high <= 6


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="minmax, average"):
        clipping("median")


@pytest.mark.parametrize("percentile", [0.9999, 50, 101, float("nan")])
def test_a_percentile_that_can_not_be_meant_is_refused(percentile: float) -> None:
    with pytest.raises(BadInput, match="percentile"):
        clipping("percentile", percentile)
