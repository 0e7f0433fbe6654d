"""Where to cut a tensor's range off, from its tally: one small function for each method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxopt.errors import BadInput
from onnxopt.quantize.records import Range
from onnxopt.quantize.tally import BINS, Histogram, Tally

Array = np.ndarray[Any, np.dtype[Any]]
Clipping = Callable[[Tally], Range]
Cost = Callable[[Array, Array, float, float], float]
"""Of bin middles, their counts, and the ends of a range."""

METHODS = ("minmax", "average", "percentile", "entropy", "mse")
WITH_HISTOGRAM = frozenset({"percentile", "entropy", "mse"})

CUT_OFF = 3.0
"""How many times the squared error of what lies outside of a range counts: in later sums it does
not average out as rounding does, and data that calibration has not seen reaches farther."""

_LEVELS = 255
_SHARES = np.geomspace(1.0, 0.02, 32)
# The middle comes first, so that an end stays where nothing is better.
_COARSE = (1.0, *np.linspace(1.3, 0.7, 8))
_FINE = (1.0, *np.linspace(1.06, 0.94, 8))


def clipping(method: str, percentile: float = 99.99) -> Clipping:
    """The function from a tally with elements to its range.

    Raises:
        BadInput: The method is unknown, or the percentile is not above 50 and at most 100.
    """
    if method not in METHODS:
        raise BadInput(
            f"there is no calibration method {method!r}", hint=f"choose one of {', '.join(METHODS)}"
        )
    if not 50 < percentile <= 100:
        raise BadInput(
            f"a percentile of {percentile} leaves nothing", hint="choose one from 99 to 100"
        )
    methods: dict[str, Clipping] = {
        "minmax": _extremes,
        "average": _average,
        "percentile": lambda tally: _percentile(tally, percentile),
        "entropy": lambda tally: _searched(tally, _divergence),
        "mse": lambda tally: _searched(tally, _squared_error),
    }
    return methods[method]


def _extremes(tally: Tally) -> Range:
    return Range(tally.low, tally.high)


def _average(tally: Tally) -> Range:
    """The mean over the samples of each one's smallest and largest element."""
    return Range(tally.low_sum / tally.filled, tally.high_sum / tally.filled)


def _percentile(tally: Tally, percentile: float) -> Range:
    """The numbers that leave (100 - percentile) / 2 percent of the elements out on either side."""
    histogram = _histogram(tally)
    shares = np.cumsum(histogram.counts) / histogram.counts.sum()
    left_out = (100 - percentile) / 200
    edges = (np.arange(2 * BINS) - BINS) * histogram.width
    low = float(edges[np.searchsorted(shares, left_out, side="right")])
    # The least bin with which the share is reached; rounding may keep the sum a little below 1.
    last = min(int(np.searchsorted(shares, 1 - left_out - 1e-12)), 2 * BINS - 1)
    high = float(edges[last]) + histogram.width
    return _within(tally, low, high)


def _searched(tally: Tally, cost: Cost) -> Range:
    """The range within the extremes, zero included, that costs least on a grid of 8 bits.

    Both ends are drawn in to the same distance from zero first, and then moved one by one.
    """
    histogram = _histogram(tally)
    used = np.flatnonzero(histogram.counts)
    middles = (used - BINS + 0.5) * histogram.width
    middles = np.clip(middles, tally.low, tally.high)
    counts = histogram.counts[used].astype(np.float64)
    low, high = min(tally.low, 0.0), max(tally.high, 0.0)
    if low == high:
        return Range(tally.low, tally.high)

    def costs(ends: tuple[float, float]) -> float:
        return cost(middles, counts, *ends)

    reach = max(-low, high) * _SHARES
    best = min(((max(low, -limit), min(high, limit)) for limit in reach), key=costs)
    for steps in (_COARSE, _FINE):
        best = min(((max(low, best[0] * step), best[1]) for step in steps), key=costs)
        best = min(((best[0], min(high, best[1] * step)) for step in steps), key=costs)
    return _within(tally, *best)


def _within(tally: Tally, low: float, high: float) -> Range:
    """The part of the range between the extremes; a bin may reach beyond them."""
    least = max(tally.low, min(tally.high, float(low)))
    return Range(least, max(least, min(tally.high, float(high))))


def _codes(middles: Array, low: float, high: float) -> tuple[Array, float, int]:
    scale = (high - low) / _LEVELS
    if scale <= 0:
        return np.zeros_like(middles), 1.0, 0
    zero = round(-low / scale)
    return np.clip(np.rint(middles / scale) + zero, 0, _LEVELS), scale, zero


def _squared_error(middles: Array, counts: Array, low: float, high: float) -> float:
    codes, scale, zero = _codes(middles, low, high)
    error = (codes - zero) * scale - middles
    weights = np.where((middles < low) | (middles > high), CUT_OFF, 1.0)
    return float((error * error) @ (counts * weights))


def _divergence(middles: Array, counts: Array, low: float, high: float) -> float:
    """The Kullback-Leibler divergence of what the grid can tell apart from what there is.

    After Migacz, "8-bit inference with TensorRT" (2017). What is cut off counts at the ends of the
    range, where the grid, which does not know of it, has too little. The bin with zero has many
    elements behind an activation, which any grid holds exactly, and weighs no more than its
    neighbours.
    """
    weights = counts.copy()
    nearest = int(np.abs(middles).argmin())
    beside = counts[max(0, nearest - 1) : nearest + 2]
    weights[nearest] = min(weights[nearest], np.delete(beside, min(nearest, 1)).max(initial=1.0))
    inside = (middles >= low) & (middles <= high)
    if not inside.any():
        return float("inf")
    codes, _, _ = _codes(middles, low, high)
    levels = codes.astype(np.intp)[inside]
    kept = weights[inside]
    total = np.bincount(levels, kept, _LEVELS + 1)
    number = np.bincount(levels, minlength=_LEVELS + 1)
    spread = (total / np.maximum(number, 1))[levels]
    whole = kept.copy()
    first = int(np.flatnonzero(inside)[0])
    whole[0] += weights[:first].sum()
    whole[-1] += weights[first + kept.size :].sum()
    share, told = whole / whole.sum(), spread / spread.sum()
    return float((share * np.log(share / told)).sum())


def _histogram(tally: Tally) -> Histogram:
    assert tally.histogram is not None, "the tally was made without a histogram"
    return tally.histogram
