from __future__ import annotations

import numpy as np
import pytest

from onnxopt.bench.statistics import (
    MIN_FLOOR,
    Interval,
    log_ratios,
    median_interval,
    noise_floor,
    settled,
    verdict,
)


def test_the_interval_holds_the_true_median_about_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    intervals = [median_interval(random.normal(1.0, 0.1, 20)) for _ in range(200)]
    assert 178 <= sum(found.low <= 1.0 <= found.high for found in intervals) <= 199


def test_one_wild_value_does_not_move_the_median() -> None:
    found = median_interval([1.0] * 9 + [100.0])
    assert (found.median, found.low) == (1.0, 1.0)


def test_the_same_values_give_the_same_interval() -> None:
    assert median_interval([1.0, 3.0, 2.0, 9.0]) == median_interval([1.0, 3.0, 2.0, 9.0])


def test_ratios_are_taken_inside_a_round() -> None:
    slow_round = [1.0, 5.0, 1.0]
    assert log_ratios(slow_round, [time / 2 for time in slow_round]) == pytest.approx(
        [np.log(2)] * 3
    )


@pytest.mark.parametrize(
    ("itself", "floor"),
    [
        (Interval(0.0, -0.05, 0.02), 0.05),
        (Interval(0.0, -0.02, 0.05), 0.05),
        (Interval(0.0, -0.001, 0.001), MIN_FLOOR),
    ],
)
def test_the_floor_is_how_far_the_reference_strays_from_itself(
    itself: Interval, floor: float
) -> None:
    assert noise_floor(itself) == floor


@pytest.mark.parametrize(
    ("low", "high", "rounds", "expected"),
    [
        (0.06, 0.2, 9, "faster"),
        (-0.2, -0.06, 9, "slower"),
        (0.04, 0.2, 9, "no measurable change"),
        (-0.2, -0.04, 9, "no measurable change"),
        (-0.2, 0.2, 9, "no measurable change"),
        (0.6, 0.7, 3, "no measurable change"),
    ],
    ids=["faster", "slower", "near the floor", "slower but near it", "both", "too few rounds"],
)
def test_a_verdict_needs_an_interval_clear_of_the_floor(
    low: float, high: float, rounds: int, expected: str
) -> None:
    assert verdict(Interval((low + high) / 2, low, high), 0.05, rounds) == expected


@pytest.mark.parametrize(
    ("ratios", "done"),
    [
        ([0.5, 0.51, 0.52] * 3, True),
        ([0.5, 0.51, 0.52] * 2, False),
        ([0.5, 0.51, 0.52] * 3 + [0.01], False),
        ([0.2, 0.5, 0.8] * 3, False),
        ([0.001, -0.001, 0.0] * 3, False),
    ],
    ids=["all agree", "too few", "one disagrees", "not yet sharp", "small, but a high floor"],
)
def test_timing_stops_early_only_where_every_round_agrees(ratios: list[float], done: bool) -> None:
    assert settled(ratios, floor=0.05) is done


def test_timing_stops_early_where_nothing_differs() -> None:
    assert settled([0.001, -0.001, 0.0] * 3, floor=MIN_FLOOR)
