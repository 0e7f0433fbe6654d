"""Calibration samples and the ones that are kept apart to measure on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.data import read_data
from onnxopt.check.feeds import synthesize
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]

EVERY = 5
"""Each fifth run is kept apart to measure on."""
MOST_HELD = 500
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Samples:
    """The user's runs, split: `calibration` is streamed, `held` lies in memory.

    `labels` are those of the held runs, None where there are none. `note` says what was kept
    apart.
    """

    calibration: Iterable[Feed]
    held: tuple[Feed, ...]
    labels: Array | None
    note: str


def split(
    data: Any,
    model: ir.Model,
    *,
    batch: int = 1,
    preprocess: str | None = None,
    labels: Any = None,
    seed: int = 0,
) -> Samples:
    """Read `data` (see check.data.read_data) and keep each fifth run apart.

    With fewer than five runs all of them serve for both. "random" makes samples up. What is split
    already is given back as it is.

    Raises:
        BadInput: There is no data, or none that fits, or the labels are not one a sample.
    """
    if isinstance(data, Samples):
        return data
    feeds = _feeds(data, model, batch, preprocess, seed)
    if isinstance(feeds, Iterator):
        feeds = list(feeds)
    total = 0
    held: list[Feed] = []
    for total, feed in enumerate(feeds, 1):
        if total % EVERY == 0 and len(held) < MOST_HELD:
            held.append(feed)
    if not total:
        raise BadInput("the data holds no samples", hint="give at least one, better a hundred")
    known = None if labels is None else _by_run(labels, batch, total)
    if total < EVERY:
        rows = None if known is None else np.concatenate(known)
        note = f"{_runs(total)}, too few to keep one apart: the loss was measured on the same"
        return Samples(feeds, tuple(feeds), rows, note)
    rows = None
    if known is not None:
        rows = np.concatenate([known[i * EVERY + EVERY - 1] for i in range(len(held))])
    note = f"{_runs(len(held))} of {total} kept apart to measure on: each fifth"
    return Samples(_Others(feeds), tuple(held), rows, note)


def require(data: Any) -> None:
    """Raise BadInput where there is no data."""
    if data is None:
        raise BadInput(
            "quantization needs samples of real inputs, and there is no data",
            hint="give some with --data; `--data random` makes noise up, which says little",
        )


@dataclass(frozen=True, slots=True)
class _Others(Iterable[Feed]):
    """All runs but each fifth."""

    feeds: Iterable[Feed]

    def __iter__(self) -> Iterator[Feed]:
        return (feed for number, feed in enumerate(self.feeds, 1) if number % EVERY)


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
