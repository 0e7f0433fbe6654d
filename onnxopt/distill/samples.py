"""The samples of a distillation: read once, split, put in a new order for each pass, stacked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.data import read_data
from onnxopt.check.images import Images, Photo, Preprocess
from onnxopt.check.inputs import Feed, inputs_of
from onnxopt.errors import BadInput
from onnxopt.quantize.samples import is_apart

FEWEST_APART = 10
IN_MEMORY = 1 << 30
"""Bytes of samples that are held in memory."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Runs to train on and runs that are kept apart to choose the best weights by.

    `stacks` tells that the model takes several runs at once, along the first axis; `photos` that
    the runs are pictures in files, of which parts can be taken.
    """

    training: tuple[Feed, ...]
    held: tuple[Feed, ...]
    stacks: bool
    note: str
    photos: bool = False

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

    def stacked(
        self, feeds: Sequence[Feed], parts: np.random.Generator | None = None
    ) -> list[Feed]:
        """The runs as few feeds as the model allows: one where all have the same shapes.

        With `parts`, a part of each photo at random instead of the whole.
        """
        found = [_read(feed, parts) for feed in feeds]
        if not self.stacks or len({_shapes(feed) for feed in found}) > 1:
            return found
        return [{name: np.concatenate([feed[name] for feed in found]) for name in found[0]}]


def read(
    data: Any,
    model: ir.Model,
    *,
    preprocess: str | None,
    held: float,
    apart: Sequence[Feed] = (),
) -> Samples:
    """Read all samples, past a gigabyte into a temporary file, and keep a share apart, in blocks.

    Where the caller keeps runs `apart`, all of `data` is trained on. With fewer than ten samples
    all of them serve for both.

    Raises:
        BadInput: There is no data, or none that fits the model.
    """
    if data is None:
        raise BadInput(
            "distillation needs samples of real inputs, and there is no data",
            hint="give some with --data; labels are not needed",
        )
    given = (
        replace(data, batch=1)
        if isinstance(data, Images)
        else read_data(data, model, 1, preprocess=preprocess)
    )
    photos = isinstance(given, Images) and isinstance(given.how, Preprocess)
    store = _Store()
    feeds: tuple[Feed, ...]
    if isinstance(given, Images) and photos:
        feeds = tuple(given.photos())
    else:
        feeds = tuple(store.kept(feed) for feed in given)
    if not feeds:
        raise BadInput("the data holds no samples", hint="give at least ten, better hundreds")
    stacks = _stacks(model, feeds)
    total = len(feeds)
    if apart:
        note = f"the best weights were chosen by {len(apart)} runs that were kept apart before"
        return Samples(feeds, tuple(apart), stacks, note, photos)
    if total < FEWEST_APART:
        note = f"{total} samples are too few to keep some apart: the best weights were chosen by"
        return Samples(feeds, feeds, stacks, f"{note} those that were trained on", photos)
    every = max(2, round(1 / held))
    apart = tuple(feed for at, feed in enumerate(feeds) if is_apart(at, total, every))
    rest = tuple(feed for at, feed in enumerate(feeds) if not is_apart(at, total, every))
    note = f"{len(apart)} of {total} samples were kept apart to choose the best weights by"
    return Samples(rest, apart, stacks, note, photos)


class _Store:
    """Holds arrays: the first ones in memory, the others in a file that is gone with them."""

    def __init__(self) -> None:
        self._taken = 0
        self._file: IO[bytes] | None = None

    def kept(self, feed: Feed) -> Feed:
        """The feed with its arrays where they stay."""
        self._taken += sum(np.asarray(value).nbytes for value in feed.values())
        if self._taken <= IN_MEMORY:
            return feed
        return {name: self._on_disk(value) for name, value in feed.items()}

    def _on_disk(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind == "O" or not value.size:
            return value
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="onnxopt-")  # noqa: SIM115 - kept open
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(value).tobytes())
        self._file.flush()
        return _Lazy(self._file, offset, value.dtype, value.shape)


@dataclass(frozen=True, slots=True)
class _Lazy:
    """An array in a file, read anew each time it is asked for."""

    file: IO[bytes]
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        self.file.seek(self.offset)
        count = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        array = np.frombuffer(self.file.read(count), self.dtype).reshape(self.shape)
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        return self.shape[0]


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


def _read(feed: Feed, parts: np.random.Generator | None = None) -> Feed:
    return {name: _read_value(value, parts) for name, value in feed.items()}


def _read_value(value: Any, parts: np.random.Generator | None) -> Any:
    if isinstance(value, Photo) and parts is not None:
        return value.part(parts)
    return np.asarray(value) if isinstance(value, (_Lazy, Photo)) else value


def _shapes(feed: Feed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, np.shape(value)) for name, value in sorted(feed.items()))
