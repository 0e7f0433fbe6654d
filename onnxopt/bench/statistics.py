"""How sure a median is: bootstrap intervals, and what they say about two sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Verdict: TypeAlias = Literal["faster", "slower", "no measurable change"]

MIN_ROUNDS = 4
"""Fewer rounds than this can't tell a difference from chance."""

MIN_FLOOR = math.log(1.01)
"""The least noise that is believed: two builds of one and the same file differ by this much."""

_EARLY_ROUNDS = 8
_EARLY_WIDTH = math.log(1.1)
_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the bounds between which it lies with 95% confidence."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """The median of independent `values`, with a bootstrap interval that is always the same."""
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(0).integers(0, array.size, (_RESAMPLES, array.size))
    medians = np.median(array[picks], axis=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(float(np.median(array)), float(low), float(high))


def log_ratios(reference: Sequence[float], other: Sequence[float]) -> list[float]:
    """By how much `other` took less time, round by round, on a scale where 0 is no difference.

    Taking the ratio inside a round leaves out what slowed the whole machine from round to round.
    """
    return [math.log(a / b) for a, b in zip(reference, other, strict=True)]


def noise_floor(itself: Interval) -> float:
    """How far chance alone moves a log ratio, from the reference timed against itself."""
    return max(abs(itself.low), abs(itself.high), MIN_FLOOR)


def verdict(ratio: Interval, floor: float, rounds: int) -> Verdict:
    """What an interval of log ratios says; a difference must stand clear of the noise floor."""
    if rounds >= MIN_ROUNDS and ratio.low > floor:
        return "faster"
    if rounds >= MIN_ROUNDS and ratio.high < -floor:
        return "slower"
    return "no measurable change"


def settled(ratios: Sequence[float], floor: float) -> bool:
    """Whether more rounds would not change the verdict, so that timing may stop early.

    Asking after every round is asking often, so the bar is higher than that of the verdict: every
    single round says the same by more than the floor and the interval has become narrow, or all
    that is seen is within the least floor.
    """
    if len(ratios) < _EARLY_ROUNDS:
        return False
    interval = median_interval(ratios)
    if min(ratios) > floor or max(ratios) < -floor:
        return interval.high - interval.low < _EARLY_WIDTH
    return max(abs(interval.low), abs(interval.high), floor) <= MIN_FLOOR
