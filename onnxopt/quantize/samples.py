"""Calibration samples and the ones that are kept apart to measure on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.data import read_data
from onnxopt.check.feeds import synthesize
from onnxopt.check.images import Images
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize.spool import Spool, repeatable

Array = np.ndarray[Any, np.dtype[Any]]

EVERY = 5
"""Each fifth run is kept apart to measure on."""
BLOCKS = 8
"""So many blocks of runs are kept apart where neighbours may be alike."""
CONFIRMING = (10, 3)
"""Of each ten runs the third confirms the score, where there are enough."""
LEAST_TO_CONFIRM = 200
"""With fewer runs than this, fewer than twenty would confirm: that shows nothing at half a percent,
and those who calibrate miss them."""
MOST_HELD = 500
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Samples:
    """The user's runs, split: `calibration` is streamed, `held` and `unseen` lie on disk.

    `labels` are those of the held runs, None where there are none. `note` says what was kept
    apart. What the held runs say decides what goes back to float, so that their last score may
    flatter; `unseen` are runs that decide nothing, with their labels, empty where there are too
    few.
    """

    calibration: Iterable[Feed]
    held: Sequence[Feed]
    labels: Array | None
    note: str
    unseen: Sequence[Feed] = ()
    unseen_labels: Array | None = None


def split(
    data: Any,
    model: ir.Model,
    *,
    batch: int = 1,
    preprocess: str | None = None,
    labels: Any = None,
    seed: int = 0,
    confirm: bool = False,
    blocks: bool = False,
) -> Samples:
    """Read `data` (see check.data.read_data) and keep each fifth run apart.

    With fewer than five runs all of them serve for both. "random" makes samples up. What is split
    already is given back as it is. With `confirm` some more are kept apart where there are enough,
    see `Samples.unseen`. With `blocks` runs are kept apart in a few blocks, see `is_apart`.

    Raises:
        BadInput: There is no data, or none that fits, or the labels are not one a sample.
    """
    if isinstance(data, Samples):
        return data
    feeds = repeatable(_feeds(data, model, batch, preprocess, seed))
    of = _count(feeds) if blocks else 0
    total = 0
    held, unseen = Spool(), Spool()
    places, others = list[int](), list[int]()
    for total, feed in enumerate(feeds, 1):
        if is_apart(total - 1, of) and len(held) < MOST_HELD:
            held.add(feed)
            places.append(total - 1)
        elif confirm and _confirms(total) and len(unseen) < MOST_HELD:
            unseen.add(feed)
            others.append(total - 1)
    if not total:
        raise BadInput("the data holds no samples", hint="give at least one, better a hundred")
    known = None if labels is None else _by_run(labels, batch, total)
    if total < EVERY:
        rows = None if known is None else np.concatenate(known)
        note = f"{_runs(total)}, too few to keep one apart: the loss was measured on the same"
        return Samples(feeds, tuple(feeds), rows, note)
    rows = _rows(known, places)
    how = f"in {BLOCKS} blocks" if total >= 2 * EVERY * BLOCKS and blocks else "each fifth"
    note = f"{_runs(len(held))} of {total} kept apart to measure on: {how}"
    if not confirm:
        return Samples(_others(feeds, of), held, rows, note)
    if total < LEAST_TO_CONFIRM:
        note += (
            f"; what they say decided too, so that the score may flatter: with {LEAST_TO_CONFIRM}"
            " runs some are left that decide nothing"
        )
        return Samples(_others(feeds, of), held, rows, note)
    note += f"; {len(unseen)} more that decided nothing, to confirm it"
    return Samples(
        _others(feeds, of, confirming=True), held, rows, note,
        unseen, _rows(known, others),
    )  # fmt: skip


def is_apart(place: int, total: int = 0, every: int = EVERY) -> bool:
    """Whether the run at a place, counted from 0, is one of those that are kept apart.

    Without a total it is the last of each `every` runs. Of a `total` it is the last of each `every`
    blocks, BLOCKS or a few more of them in all: sentences of one text and pictures of one film are
    alike, and what has seen the neighbours of a run is not measured by it. MiniLM pruned on
    sentences in groups of about ten seemed ten times as near to the original as it was.
    """
    size = max(1, total // (every * BLOCKS))
    return place // size % every == every - 1


def spread(runs: Sequence[Feed], most: int) -> Iterator[Feed]:
    """Up to so many of the runs, evenly spread over all of them."""
    count = min(most, len(runs))
    return (runs[place * len(runs) // count] for place in range(count))


def require(data: Any) -> None:
    """Raise BadInput where there is no data."""
    if data is None:
        raise BadInput(
            "quantization needs samples of real inputs, and there is no data",
            hint="give some with --data; `--data random` makes noise up, which says little",
        )


@dataclass(frozen=True, slots=True)
class _Others(Iterable[Feed]):
    """All runs but those that are kept apart, and those that confirm."""

    feeds: Iterable[Feed]
    total: int
    confirming: bool = False

    def __iter__(self) -> Iterator[Feed]:
        return (feed for number, feed in enumerate(self.feeds, 1) if self.has(number))

    def has(self, number: int) -> bool:
        """Whether the run of this number, counted from 1, is one of them."""
        apart = is_apart(number - 1, self.total)
        return not apart and not (self.confirming and _confirms(number))


def _others(feeds: Iterable[Feed], total: int, *, confirming: bool = False) -> Iterable[Feed]:
    """All runs but those that are kept apart; pictures stay pictures, which can be cropped."""
    others = _Others(feeds, total, confirming)
    return feeds.where(others.has) if isinstance(feeds, Images) else others


def _confirms(number: int) -> bool:
    every, place = CONFIRMING
    return number % every == place


def _rows(known: Sequence[Array] | None, places: Sequence[int]) -> Array | None:
    """The labels of the runs at these places."""
    if known is None or not places:
        return None
    return np.concatenate([known[place] for place in places])


def _count(feeds: Iterable[Feed]) -> int:
    return len(feeds) if isinstance(feeds, Sized) else sum(1 for _ in feeds)


def _feeds(
    data: Any, model: ir.Model, batch: int, preprocess: str | None, seed: int
) -> Iterable[Feed]:
    require(data)
    if isinstance(data, str) and data == RANDOM:
        return list(synthesize(model, seed=seed, count=20))
    return read_data(data, model, batch, preprocess=preprocess)


def _by_run(labels: Any, batch: int, total: int) -> Sequence[Array]:
    rows = np.asarray(labels).reshape(-1)
    if -(-len(rows) // batch) != total:
        raise BadInput(
            f"there are {len(rows)} labels for {total} runs of {batch}",
            hint="give a label for each sample, in the order of the data",
        )
    return [rows[i * batch : (i + 1) * batch] for i in range(total)]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
