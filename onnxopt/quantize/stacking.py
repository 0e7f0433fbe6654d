"""Samples that run as one: where a model takes them row by row, that saves most of the overhead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxopt.check.inputs import Feed, InputSpec
from onnxopt.errors import RuntimeFailed
from onnxopt.quantize.tally import Reading

Array = np.ndarray[Any, np.dtype[Any]]
Read = Callable[[Sequence[Feed], int], Mapping[str, Reading]]
"""Runs samples as one, the first of which has this number."""

MOST = 8
"""So many samples run as one, and no more than hand out `MOST_BYTES` together: more would save
little time and make the peak of memory a matter of chance."""
MOST_BYTES = 24 << 20

# Kernels round differently when they see more rows.
_ALIKE = 1e-3


class Grouping:
    """Shares samples out into groups that run as one.

    Whether a model keeps its samples apart is not told by its shapes. So the first two that differ
    run alone and then as one, and groups are made only where every value says the same of both.
    """

    def __init__(self, inputs: Iterable[InputSpec], read: Read) -> None:
        self._limit = 1
        self._open = _is_stackable(inputs)
        self._read = read
        self._before: tuple[Feed, Mapping[str, Reading]] | None = None

    def groups(self, feeds: Iterable[tuple[int, Feed]]) -> Iterator[tuple[int, list[Feed]]]:
        """The samples in their order, each group with the number of its first one."""
        held: list[Feed] = []
        first = 0
        for number, feed in feeds:
            if held and not (len(held) < self._limit and are_alike(held[0], feed)):
                yield first, held
                held = []
            if not held:
                first = number
            held.append(feed)
            del feed
            if len(held) >= self._limit:
                yield first, held
                held = []
        if held:
            yield first, held

    def learn(
        self, group: Sequence[Feed], first: int, readings: Mapping[str, Reading], size: int
    ) -> None:
        """Take note of a group that ran; `size` are the bytes that a sample hands out."""
        most = min(MOST, MOST_BYTES // max(size, 1))
        if not self._open or len(group) != 1:
            return
        if most < 2:
            self._open = False
        elif self._before is not None and are_alike(self._before[0], group[0]):
            feed, alone = self._before
            if _are_equal(feed, group[0]):
                return
            self._open = False
            try:
                together = self._read([feed, group[0]], first - 1)
            except RuntimeFailed:
                return
            self._limit = most if _is_told_apart(together, (alone, readings)) else 1
            self._before = None
        else:
            self._before = (group[0], readings)

    def give_up(self) -> None:
        """Run samples one by one from here on."""
        self._open, self._limit, self._before = False, 1, None


def stack(feeds: Sequence[Feed]) -> Feed:
    """Samples one after the other along the first dim of each input."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def are_alike(left: Feed, right: Feed) -> bool:
    """Whether two samples have the same inputs, of the same types and sizes, and a dim to stack."""
    return left.keys() == right.keys() and all(
        isinstance(left[name], np.ndarray)
        and isinstance(right[name], np.ndarray)
        and left[name].ndim > 0
        and left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        for name in left
    )


def _is_stackable(inputs: Iterable[InputSpec]) -> bool:
    """Whether the first dim of all inputs is open, and of one name."""
    firsts = set()
    for spec in inputs:
        if spec.kind != "tensor" or not spec.shape or isinstance(spec.shape[0], int):
            return False
        firsts.add(spec.shape[0])
    return len(firsts) == 1


def _are_equal(left: Feed, right: Feed) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in left)


def _is_told_apart(together: Mapping[str, Reading], alone: Sequence[Mapping[str, Reading]]) -> bool:
    """Whether each value has the extremes for each sample that it has where that runs alone."""
    for name, reading in together.items():
        for row, single in enumerate(each[name] for each in alone):
            if reading.lows.size != len(alone) or single.lows.size != 1:
                if reading.lows.size or single.lows.size:
                    return False
                continue
            low, high = single.lows[0], single.highs[0]
            room = _ALIKE * max(abs(low), abs(high))
            near = abs(reading.lows[row] - low) <= room and abs(reading.highs[row] - high) <= room
            if not near:
                return False
    return True
