"""Feeds with the outputs of the model that is right, made once and kept while there is room."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.feeds import Synthetic
from onnxopt.check.inputs import Feed, checked_feed, inputs_of
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.runtime.sessions import Session

KEEP_BYTES = 256 << 20


class Runs(Iterable[tuple[Feed, list[Any]]]):
    """Each feed with its outputs, in the same order every time it is iterated.

    Feeds and outputs together are kept up to `keep_bytes`; what is beyond is read and run again.
    Of feeds that can be read only once (an iterator), what does not fit is seen only the first
    time.
    """

    def __init__(
        self,
        session: Session,
        model: ir.Model,
        feeds: Iterable[Feed],
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._session = session
        self._inputs = inputs_of(model)
        self._feeds = feeds
        self._once = feeds if isinstance(feeds, Iterator) else None
        self._room = keep_bytes
        self._kept: list[tuple[Feed, list[Any]]] = []
        self._all_kept = False
        self._dropped = 0

    def __iter__(self) -> Iterator[tuple[Feed, list[Any]]]:
        """Raises BadInput for a feed that does not fit, RuntimeFailed for one that does not run."""
        yield from list(self._kept)
        if self._all_kept:
            return
        keeping = True
        for feed, outputs in self._further(len(self._kept)):
            size = _bytes(feed) + _bytes(outputs)
            keeping = keeping and size <= self._room
            if keeping:
                self._kept.append((feed, outputs))
                self._room -= size
            elif self._once is not None:
                self._dropped += 1
            yield feed, outputs
        self._all_kept = keeping or self._once is not None
        if not self._kept and keeping:
            raise BadInput("the data holds no feed", hint="give at least one sample")

    @property
    def skipped(self) -> int:
        """How many sizes of made-up feeds the model refused."""
        return self._feeds.skipped if isinstance(self._feeds, Synthetic) else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the comparison should know about the feeds."""
        if not self._dropped:
            return ()
        return (
            f"{self._dropped} feeds could be read only once and did not fit in memory; only the"
            " first candidate saw them",
        )

    def _further(self, start: int) -> Iterator[tuple[Feed, list[Any]]]:
        if isinstance(self._feeds, Synthetic) and not self._feeds.resolved:
            yield from itertools.islice(self._feeds.resolve(self._session.run), start, None)
            return
        rest = self._once or itertools.islice(self._feeds, start, None)
        for index, feed in enumerate(rest, start + 1):
            checked = checked_feed(feed, self._inputs, f"feed {index}")
            try:
                outputs = self._session.run(checked)
            except RuntimeFailed as error:
                raise RuntimeFailed(
                    f"feed {index}: {error.message}", hint="check its sizes against the model"
                ) from error
            yield checked, outputs


def _bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    return 8
