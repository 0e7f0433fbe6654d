"""The samples of a distillation: read once, split, put in a new order for each pass, stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.data import read_data
from onnxopt.check.inputs import Feed, inputs_of
from onnxopt.errors import BadInput

FEWEST_APART = 10


@dataclass(frozen=True, slots=True)
class Samples:
    """Runs to train on and runs that are kept apart to choose the best weights by.

    `stacks` tells that the model takes several runs at once, along the first axis.
    """

    training: tuple[Feed, ...]
    held: tuple[Feed, ...]
    stacks: bool
    note: str

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[list[Feed]]:
        """All training runs in an order that seed and epoch fix, `size` at a time.

        What is left at the end and fills less than half of a batch joins the one before it.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self.training))
        starts = list(range(0, len(order), size))
        if len(starts) > 1 and len(order) - starts[-1] < size / 2:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            yield [self.training[place] for place in order[start:end]]

    def steps(self, size: int) -> int:
        """How many batches a pass has."""
        full, left = divmod(len(self.training), size)
        return max(1, full + (left >= size / 2 and left > 0))

    def stacked(self, feeds: Sequence[Feed]) -> list[Feed]:
        """The runs as few feeds as the model allows: one where all have the same shapes."""
        if not self.stacks or len({_shapes(feed) for feed in feeds}) > 1:
            return list(feeds)
        return [{name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}]


def read(data: Any, model: ir.Model, *, preprocess: str | None, held: float) -> Samples:
    """Read all samples into memory, and keep each `1 / held`-th apart.

    With fewer than ten samples all of them serve for both.

    Raises:
        BadInput: There is no data, or none that fits the model.
    """
    if data is None:
        raise BadInput(
            "distillation needs samples of real inputs, and there is no data",
            hint="give some with --data; labels are not needed",
        )
    feeds = tuple(read_data(data, model, 1, preprocess=preprocess))
    if not feeds:
        raise BadInput("the data holds no samples", hint="give at least ten, better hundreds")
    stacks = _stacks(model, feeds)
    total = len(feeds)
    if total < FEWEST_APART:
        note = f"{total} samples are too few to keep some apart: the best weights were chosen by"
        return Samples(feeds, feeds, stacks, f"{note} those that were trained on")
    every = max(2, round(1 / held))
    apart = tuple(feed for number, feed in enumerate(feeds) if number % every == every - 1)
    rest = tuple(feed for number, feed in enumerate(feeds) if number % every != every - 1)
    note = f"{len(apart)} of {total} samples were kept apart to choose the best weights by"
    return Samples(rest, apart, stacks, note)


def _stacks(model: ir.Model, feeds: Sequence[Feed]) -> bool:
    """Whether every fed input has a first dim that is not fixed and stands for one sample."""
    fed = [spec for spec in inputs_of(model) if spec.name in feeds[0]]
    return all(
        spec.kind == "tensor"
        and spec.shape
        and not isinstance(spec.shape[0], int)
        and all(len(feed[spec.name]) == 1 for feed in feeds)
        for spec in fed
    )


def _shapes(feed: Feed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, np.shape(value)) for name, value in sorted(feed.items()))
