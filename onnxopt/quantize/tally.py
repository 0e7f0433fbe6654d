"""What a stream of arrays says about a tensor, in memory that does not grow with the stream.

The bins of a histogram are as wide as a power of two and zero lies on an edge. So a wider range is
met by joining bins, without an error and without a second look at the data, and tallies of parts
add up to the tally of the whole, bin for bin.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 1 << 11
"""Bins on each side of zero; the larger side of a range fills more than half of its own."""

_FINEST = -110
_CHUNK = 1 << 16
_FINER = 4


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many elements lie in each bin.

    `counts[i]`, int64[2 * BINS], is for numbers from (i - BINS) * width up to, but without,
    (i - BINS + 1) * width, with a width of 2 ** exponent.
    """

    exponent: int
    counts: Array

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    def coarser(self, exponent: int) -> Histogram:
        """The same elements in wider bins; `exponent` is at least this one's."""
        joined = min(exponent - self.exponent, BINS.bit_length() - 1)
        if joined == 0:
            return self
        sums = self.counts.reshape(-1, 1 << joined).sum(axis=1)
        counts = np.zeros_like(self.counts)
        start = BINS - sums.size // 2
        counts[start : start + sums.size] = sums
        return Histogram(exponent, counts)

    def clipped(self, low: float, high: float) -> Histogram:
        """The elements after max(low, min(high, x)); at least one bin must lie between."""
        first = max(0, min(2 * BINS - 1, self._bin(low)))
        last = max(0, min(2 * BINS - 1, self._bin(high)))
        counts = self.counts.copy()
        if first:
            counts[first] += counts[:first].sum()
            counts[:first] = 0
        if last < 2 * BINS - 1:
            counts[last] += counts[last + 1 :].sum()
            counts[last + 1 :] = 0
        return Histogram(self.exponent, counts)

    def _bin(self, number: float) -> int:
        scaled = math.ldexp(number, -self.exponent) if math.isfinite(number) else number
        return BINS + math.floor(max(-BINS, min(BINS, scaled)))

    def __add__(self, other: Histogram) -> Histogram:
        exponent = max(self.exponent, other.exponent)
        left, right = self.coarser(exponent), other.coarser(exponent)
        return Histogram(exponent, left.counts + right.counts)


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of a tensor after `feeds` samples.

    `filled` of them held elements at all. `low` and `high` are the smallest and largest element of
    all (infinite, the wrong way round, where there was none), `low_sum` and `high_sum` add up
    those of each sample.
    """

    feeds: int = 0
    filled: int = 0
    low: float = math.inf
    high: float = -math.inf
    low_sum: float = 0.0
    high_sum: float = 0.0
    histogram: Histogram | None = None

    @classmethod
    def of(cls, array: Array, *, histogram: bool) -> Tally:
        """The tally of one sample: a finite float32 array of any shape."""
        return Reading.of(array.reshape(1, -1), histogram=histogram).tally()

    def __add__(self, other: Tally) -> Tally:
        if not self.feeds or not other.feeds:
            return self if self.feeds else other
        counted = None
        if self.histogram is not None and other.histogram is not None:
            counted = self.histogram + other.histogram
        return Tally(
            self.feeds + other.feeds,
            self.filled + other.filled,
            min(self.low, other.low),
            max(self.high, other.high),
            self.low_sum + other.low_sum,
            self.high_sum + other.high_sum,
            counted,
        )

    def to_data(self) -> dict[str, Any]:
        """The tally as JSON holds it."""
        data: dict[str, Any] = {"feeds": self.feeds, "filled": self.filled}
        if self.filled:
            data |= {"low": self.low, "high": self.high}
            data |= {"low_sum": self.low_sum, "high_sum": self.high_sum}
        if self.histogram is not None:
            used = np.flatnonzero(self.histogram.counts)
            first, last = (int(used[0]), int(used[-1])) if used.size else (BINS, BINS - 1)
            data["exponent"] = self.histogram.exponent
            data["first"] = first
            data["counts"] = self.histogram.counts[first : last + 1].tolist()
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Tally:
        """The tally that `to_data` wrote. Raises KeyError, TypeError or ValueError for others."""
        histogram = None
        if "counts" in data:
            counts, first = _no_counts(), int(data["first"])
            given = np.asarray(data["counts"], np.int64)
            counts[first : first + given.size] = given
            histogram = Histogram(int(data["exponent"]), counts)
        feeds, filled = int(data["feeds"]), int(data["filled"])
        if not filled:
            return cls(feeds, histogram=histogram)
        low, high = float(data["low"]), float(data["high"])
        sums = float(data["low_sum"]), float(data["high_sum"])
        return cls(feeds, filled, low, high, *sums, histogram)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run told of a value for `feeds` samples.

    `lows` and `highs`, float64, are the smallest and the largest element of each sample, `low` and
    `high` those of all; they are empty, or infinite the wrong way round, where the value is.
    `finer` has histograms by their exponent in which what lies beyond the bins is in the outermost.
    """

    feeds: int
    lows: Array
    highs: Array
    low: float
    high: float
    histogram: Histogram | None = None
    finer: Mapping[int, Histogram] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Array, *, histogram: bool, bounds: Iterable[tuple[float, float]] = ()
    ) -> Reading:
        """The reading of a float32 array [samples, elements] that may be `clipped` to `bounds`."""
        if rows.size == 0:
            none, empty = np.zeros(0), Histogram(_FINEST, _no_counts()) if histogram else None
            return cls(len(rows), none, none, math.inf, -math.inf, empty)
        lows, highs = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
        low, high = float(lows.min()), float(highs.max())
        if not (histogram and math.isfinite(low) and math.isfinite(high)):
            return cls(len(rows), lows, highs, low, high)
        exponent = _exponent(low, high)
        ends = (_clipped(low, high, *each) for each in bounds)
        finer = _histograms(rows, exponent, {_exponent(*each) for each in ends})
        return cls(len(rows), lows, highs, low, high, finer.pop(exponent), finer)

    @property
    def not_finite(self) -> int | None:
        """The first sample, from 0, with a NaN or an infinity in it."""
        if self.lows.size == 0 or (math.isfinite(self.low) and math.isfinite(self.high)):
            return None
        found = np.flatnonzero(~(np.isfinite(self.lows) & np.isfinite(self.highs)))
        return int(found[0])

    def clipped(self, low: float, high: float) -> Reading | None:
        """The same after clipping; None where it would want bins that there are none of."""
        if self.lows.size == 0 or (low == -math.inf and high == math.inf):
            return self
        least, most = _clipped(self.low, self.high, low, high)
        counted = self.histogram
        if counted is not None:
            exponent = _exponent(least, most)
            if exponent != counted.exponent:
                counted = self.finer.get(exponent)
            if counted is None:
                return None
            counted = counted.clipped(low, high)
        lows, highs = (np.maximum(low, np.minimum(high, each)) for each in (self.lows, self.highs))
        return Reading(self.feeds, lows, highs, least, most, counted)

    def tally(self) -> Tally:
        """The tally of these samples alone."""
        if self.lows.size == 0:
            return Tally(self.feeds, histogram=self.histogram)
        return Tally(
            self.feeds,
            self.feeds,
            self.low,
            self.high,
            float(self.lows.sum()),
            float(self.highs.sum()),
            self.histogram,
        )


def _histograms(array: Array, exponent: int, finer: Iterable[int]) -> dict[int, Histogram]:
    """The histograms with this exponent and with those of `finer` that one count can give."""
    # More bins than elements would take longer than to count again.
    least = exponent - min(_FINER, max(0, (array.size // (2 * BINS)).bit_length() - 1))
    wanted = {exponent, *(each for each in finer if each >= least)}
    found: dict[int, Histogram] = {}
    counts = _counts(array, min(wanted), BINS << (exponent - min(wanted)))
    for each in range(min(wanted), exponent + 1):
        if each in wanted:
            found[each] = Histogram(each, _inner(counts))
        counts = counts[::2] + counts[1::2]
    return found


def _counts(array: Array, exponent: int, bins: int) -> Array:
    """How many elements lie in each of 2 * bins bins around zero, int64; none lies beyond."""
    factor, middle = np.float32(math.ldexp(1.0, -exponent)), np.float32(bins)
    counts = np.zeros(2 * bins, np.int64)
    flat = array.reshape(-1)
    # Parts that fit in the processor's cache: a whole tensor would go to memory and back thrice.
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        scaled, narrow, index = (
            each[: part.size] for each in (_ROOM.scaled, _ROOM.narrow, _ROOM.index)
        )
        np.multiply(part, factor, out=scaled)
        # Without it the sum would round what lies close below an edge up to it.
        np.floor(scaled, out=scaled)
        np.add(scaled, middle, out=scaled)
        # Straight to the wide type takes longer.
        np.copyto(narrow, scaled, casting="unsafe")
        np.copyto(index, narrow)
        counts += np.bincount(index, minlength=2 * bins)
    return counts


class _Room(threading.local):
    """Where a part of an array is counted: fresh memory for each would take as long again."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.narrow = np.empty(_CHUNK, np.int32)
        self.index = np.empty(_CHUNK, np.intp)


_ROOM = _Room()


def _inner(counts: Array) -> Array:
    """The 2 * BINS bins around zero, the outermost with what lies beyond them."""
    start = counts.size // 2 - BINS
    inner: Array = counts[start : start + 2 * BINS].copy()
    inner[0] += counts[:start].sum()
    inner[-1] += counts[start + 2 * BINS :].sum()
    return inner


def _clipped(least: float, most: float, low: float, high: float) -> tuple[float, float]:
    return max(low, min(high, least)), max(low, min(high, most))


def _exponent(low: float, high: float) -> int:
    """The least exponent whose bins reach both ends."""
    reach = max(-low, high)
    return max(_FINEST, math.frexp(reach)[1] - (BINS.bit_length() - 1)) if reach else _FINEST


def _no_counts() -> Array:
    return np.zeros(2 * BINS, np.int64)
