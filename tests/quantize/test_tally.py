"""Tallies of parts add up to the tally of the whole, whatever the parts are like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.quantize.tally import BINS, Histogram, Reading, Tally

NUMBER = st.floats(-(2.0**40), 2.0**40, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20)
NUMBERS = st.lists(NUMBER, min_size=1, max_size=30)


def _of(numbers: list[float]) -> Tally:
    return Tally.of(np.array(numbers, np.float32), histogram=True)


def _read(numbers: list[float]) -> Reading:
    return Reading.of(np.array([numbers], np.float32), histogram=True)


def _histogram(tally: Tally) -> Histogram:
    assert tally.histogram is not None
    return tally.histogram


@given(NUMBERS, NUMBERS)
def test_two_parts_give_the_histogram_of_the_whole(left: list[float], right: list[float]) -> None:
    joined, whole = _of(left) + _of(right), _of(left + right)
    assert (joined.low, joined.high) == (whole.low, whole.high)
    assert _histogram(joined).exponent == _histogram(whole).exponent
    assert np.array_equal(_histogram(joined).counts, _histogram(whole).counts)


@given(NUMBERS)
def test_each_number_lies_in_the_bin_that_counts_it(numbers: list[float]) -> None:
    histogram = _histogram(_of(numbers))
    assert histogram.counts.sum() == len(numbers)
    for number in numbers:
        assert histogram.counts[math.floor(number / histogram.width) + BINS]


@given(NUMBERS, st.floats(-100, 100, width=32), st.floats(0, 100, width=32))
def test_a_clipped_tally_is_the_tally_of_clipped_numbers(
    numbers: list[float], low: float, span: float
) -> None:
    high = float(np.float32(low + span))
    clipped = _read(numbers).clipped(low, high)
    direct = _of(np.clip(np.array(numbers, np.float32), low, high).tolist())
    if clipped is None:
        return
    assert clipped.tally().to_data() == direct.to_data()


def test_the_larger_side_fills_more_than_half_of_its_bins() -> None:
    histogram = _histogram(_of([-0.3, 1.7]))
    assert BINS // 2 <= int(np.flatnonzero(histogram.counts).max()) - BINS < BINS


def test_clipping_to_beyond_the_range_asks_for_other_bins() -> None:
    assert _read([0.0, 0.5]).clipped(3.0, 4.0) is None


def test_clipping_away_nearly_all_of_a_range_asks_for_finer_bins() -> None:
    assert _read([-100.0, 0.5]).clipped(0.0, math.inf) is None


def test_a_sample_without_elements_counts_as_seen_and_not_as_filled() -> None:
    tally = _of([]) + _of([2.0, 3.0])
    assert (tally.feeds, tally.filled, tally.low, tally.high) == (2, 1, 2.0, 3.0)


def test_denormal_numbers_have_a_histogram() -> None:
    assert _histogram(_of([1e-42, -1e-42])).counts.sum() == 2


@pytest.mark.parametrize("numbers", [[], [0.0], [-1.5, 2.0, 1e30]])
def test_a_tally_comes_back_from_json_as_it_was(numbers: list[float]) -> None:
    tally = _of(numbers)
    again = Tally.from_data(tally.to_data())
    assert np.array_equal(_histogram(again).counts, _histogram(tally).counts)
    assert again.to_data() == tally.to_data()


def test_rows_are_samples() -> None:
    rows = np.array([[1, -2], [0, 5]], np.float32)
    together = Reading.of(rows, histogram=True).tally()
    apart = Tally.of(rows[0], histogram=True) + Tally.of(rows[1], histogram=True)
    assert together.to_data() == apart.to_data()
    assert (together.low_sum, together.high_sum) == (-2, 6)


def test_the_sample_that_is_not_finite_is_told() -> None:
    rows = np.array([[1, 2], [3, 4], [5, np.nan]], np.float32)
    assert Reading.of(rows, histogram=True).not_finite == 2
    assert Reading.of(rows[:2], histogram=True).not_finite is None


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, math.inf), (-2.0, 2.0), (-0.01, 0.01)])
@pytest.mark.parametrize("size", [100, 1 << 17])
def test_clipping_a_reading_gives_the_reading_of_what_is_clipped(
    bounds: tuple[float, float], size: int
) -> None:
    rows = (np.random.default_rng(0).standard_normal((2, size)) * 9).astype(np.float32)
    rows = np.maximum(rows, -30, out=rows)
    clipped = Reading.of(rows, histogram=True, bounds=[bounds]).clipped(*bounds)
    wanted = Reading.of(np.clip(rows, *bounds), histogram=True)
    # Few elements are counted again, and so are those that want far smaller bins.
    assert (clipped is None) == (bounds[1] == 0.01 or (size == 100 and bounds[1] < math.inf))
    if clipped is not None:
        assert clipped.histogram is not None and wanted.histogram is not None
        assert clipped.histogram.exponent == wanted.histogram.exponent
        assert np.array_equal(clipped.histogram.counts, wanted.histogram.counts)
        assert clipped.lows.tolist() == wanted.lows.tolist()
