"""Feeds that can be read more than once, whatever they come from."""

from __future__ import annotations

import pickle
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput


def repeatable(feeds: Iterable[Feed]) -> Iterable[Feed]:
    """The feeds themselves, or a copy on disk of those that can be read only once."""
    return Spool(feeds) if isinstance(feeds, Iterator) else feeds


def numbered(feeds: Iterable[Feed], *, expected: int | None = None) -> Iterator[tuple[int, Feed]]:
    """The feeds with their numbers, from 1.

    Raises:
        BadInput: At the end, if there were none, or not as many as `expected`.
    """
    number = 0
    for number, feed in enumerate(feeds, 1):
        yield number, feed
    if number == 0 and not expected:
        raise BadInput("the data holds no sample", hint="give at least one, better a hundred")
    if expected is not None and number != expected:
        raise BadInput(
            f"the data gave {expected} samples the first time and {number} the second",
            hint="give data that can be read again: a list, a file, or a function",
        )


class Spool(Sequence[Feed]):
    """Feeds in a temporary file, which is gone when this is; each is read when it is asked for.

    Several threads may read and add.
    """

    def __init__(self, feeds: Iterable[Feed] = ()) -> None:
        self._file = tempfile.TemporaryFile(prefix="onnxopt-")  # noqa: SIM115 - closed with self
        self._turn = threading.Lock()
        self._starts: list[int] = []
        self._end = 0
        for feed in feeds:
            self.add(feed)

    def add(self, feed: Feed) -> None:
        """Write one more behind the others."""
        with self._turn:
            self._file.seek(self._end)
            pickle.dump(dict(feed), self._file, protocol=pickle.HIGHEST_PROTOCOL)
            self._starts.append(self._end)
            self._end = self._file.tell()

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Feed: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Feed, ...]: ...
    def __getitem__(self, place: int | slice) -> Feed | tuple[Feed, ...]:
        if isinstance(place, slice):
            return tuple(self._read(start) for start in self._starts[place])
        return self._read(self._starts[place])

    def __iter__(self) -> Iterator[Feed]:
        return map(self._read, self._starts)

    def _read(self, start: int) -> Feed:
        with self._turn:
            self._file.seek(start)
            feed: Feed = pickle.load(self._file)
        return feed
