"""Work that runs ahead in threads, while its results are taken in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 2
"""So many runs hold their values at a time."""


def runs_at_once(threads: int, samples: int = 0) -> int:
    """How many runs share so many threads, 0 for all there are; `samples` is 0 if not known.

    Small operators gain little from several threads, and counting what a run gave nothing.
    """
    return 1 if samples == 1 or (threads or _processors()) < _AT_ONCE else _AT_ONCE


def threads_each(threads: int, at_once: int) -> int:
    """The threads of a session that the runs share: theirs and its own make up `threads`."""
    return threads if at_once == 1 else (threads or _processors()) - at_once + 1


def _processors() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: int, *, begun_ahead: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with what `work` makes of it, in their order.

    `begun_ahead` of them are begun or done while one is handed out; threads work on `at_once` of
    these at a time. Where reading the items fails or is interrupted, what was begun is handed out
    before that is raised; what follows an item whose work fails is not.
    """
    if at_once < 2:
        for item in items:
            yield item, work(item)
            del item
        return
    begun: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="onnxopt")
    try:
        for item in items:
            begun.append((item, pool.submit(work, item)))
            del item
            while len(begun) > begun_ahead:
                yield _first(begun)
        while begun:
            yield _first(begun)
    except GeneratorExit:
        raise
    except BaseException:
        while begun and begun[0][1].exception() is None:
            yield _first(begun)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _first(begun: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    """Take what was begun first, as soon as it is done; it stays there if it failed."""
    item, future = begun[0]
    result = future.result()
    begun.popleft()
    return item, result
