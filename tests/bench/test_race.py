"""A race is run again where the machine is noisy, and decided by the least times where it stays."""

from __future__ import annotations

from typing import Any

import pytest

from onnxopt.bench import race as races
from onnxopt.bench.statistics import Interval, Verdict
from onnxopt.bench.timing import Comparison, Side, Timing


def side(name: str, blocks: list[float]) -> Side:
    middle = Interval(blocks[0], blocks[0], blocks[0])
    return Side(name, middle, blocks[0], 1.0, 1, None, 9, tuple(blocks))


def timing(
    verdict: Verdict, speedup: tuple[float, float, float], floor: float,
    blocks: tuple[list[float], list[float]] = ([1.0] * 8, [1.0] * 8),
) -> Timing:  # fmt: skip
    return Timing(
        sides=(side("float", blocks[0]), side("int8", blocks[1])),
        comparisons=(Comparison("int8", Interval(*speedup), verdict),),
        itself=Interval(1.0, 1.0, floor), noise_floor=floor, providers=(), threads=1,
        rounds=len(blocks[0]), calls_per_block=1, feeds=1, seconds=1.0,
    )  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *timings: Timing) -> tuple[races.Race, int]:
    waiting = list(timings)

    def bench(*models: Any, **keywords: Any) -> Timing:
        return waiting.pop(0)

    monkeypatch.setattr(races, "bench", bench)
    found = races.race([b"", b""], [], names=("float", "int8"))
    return found, len(timings) - len(waiting)


NOISY = timing("no measurable change", (2.0, 1.7, 2.4), 1.8, ([9, 9.1] * 4, [4, 4.1] * 4))


def test_a_clear_verdict_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, attempts = run(monkeypatch, timing("faster", (1.5, 1.4, 1.6), 1.02))
    assert (found.faster, found.speedup, attempts) == (True, 1.5, 1)


def test_a_difference_below_a_quiet_floor_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    found, attempts = run(monkeypatch, timing("no measurable change", (1.01, 0.99, 1.02), 1.02))
    assert (found.faster, attempts) == (False, 1)


def test_a_noisy_race_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, attempts = run(monkeypatch, NOISY, timing("faster", (1.6, 1.5, 1.7), 1.1))
    assert (found.faster, found.speedup, attempts) == (True, 1.6, 2)


def test_the_least_times_decide_where_it_stays_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    found, attempts = run(monkeypatch, NOISY, NOISY, NOISY)
    assert (found.faster, attempts) == (True, 3)


@pytest.mark.parametrize(
    "open_still",
    [
        timing("no measurable change", (2.0, 0.9, 2.4), 1.8, ([9, 9.1] * 4, [4, 4.1] * 4)),
        timing("no measurable change", (2.0, 1.7, 2.4), 1.8, ([9, 9.1] * 4, [4, *[9.0] * 7])),
        timing("no measurable change", (1.1, 1.05, 1.4), 1.8, ([9, 9.1] * 4, [8.9, 9] * 4)),
        timing("no measurable change", (2.0, 1.7, 2.4), 1.8, ([9, 9.1], [4, 4.1])),
    ],
    ids=["wide", "one lucky block", "alike", "two rounds"],
)
def test_what_is_not_sure_is_no_gain(monkeypatch: pytest.MonkeyPatch, open_still: Timing) -> None:
    assert not run(monkeypatch, open_still, open_still, open_still)[0].faster
