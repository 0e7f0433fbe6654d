"""Work in threads: taken in order, no more of it than asked for, and kept when something fails."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest

from onnxopt.quantize.ahead import in_order, runs_at_once, threads_each


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(at_once: int) -> None:
    found = list(in_order(lambda number: number * number, range(20), at_once, begun_ahead=2))
    assert found == [(number, number * number) for number in range(20)]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_items_are_taken_than_asked_for(at_once: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    for number, _ in in_order(str, items(), at_once, begun_ahead=at_once - 1):
        assert len(taken) <= number + at_once


def test_work_goes_on_while_a_result_is_looked_at() -> None:
    last_began = threading.Event()

    def work(number: int) -> None:
        if number == 2:
            last_began.set()

    results = in_order(work, range(3), 3, begun_ahead=2)
    next(results)
    assert last_began.wait(60)


def note(seen: list[int], results: Iterable[tuple[int, object]]) -> None:
    for number, _ in results:
        seen.append(number)


def interrupted(error: BaseException) -> Iterator[int]:
    yield from range(3)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_what_was_begun_is_handed_out_before_the_items_end_in_an_error(
    error: type[BaseException], at_once: int
) -> None:
    seen: list[int] = []
    with pytest.raises(error):
        note(seen, in_order(str, interrupted(error()), at_once, begun_ahead=at_once))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_nothing_behind_work_that_fails_is_handed_out(at_once: int) -> None:
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        note(
            seen, in_order(lambda number: 1 // (2 - number), range(9), at_once, begun_ahead=at_once)
        )
    assert seen == [0, 1]


def test_one_thread_and_one_sample_run_one_by_one() -> None:
    assert runs_at_once(1) == 1
    assert runs_at_once(8, samples=1) == 1
    assert threads_each(0, 1) == 0


def test_two_runs_share_the_threads_that_were_asked_for() -> None:
    assert runs_at_once(2) == 2
    assert threads_each(2, 2) == 1
    assert threads_each(8, 2) == 7
