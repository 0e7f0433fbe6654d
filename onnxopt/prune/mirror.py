"""A few pictures seen from both sides: the same for most classifiers, and twice as much to fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import choose
from onnxopt.prune.regression import EVERY
from onnxopt.runtime.sessions import Session

Array = np.ndarray[Any, np.dtype[Any]]

FEW = 500
"""From so many pictures on, what is fitted to them holds for others as well."""
_LOOKED_AT = 20
_SAME_CLASS = 0.75
_SMALLEST = 8


@dataclass(frozen=True, slots=True)
class Mirrored(Iterable[Feed]):
    """Each EVERY feeds, and then the same with left and right exchanged along `axis`.

    So one that is kept apart for its number is kept apart as both.
    """

    feeds: Iterable[Feed]
    axis: int

    def __iter__(self) -> Iterator[Feed]:
        feeds = iter(self.feeds)
        while block := list(islice(feeds, EVERY)):
            yield from block
            yield from (turned(feed, self.axis) for feed in block)


def with_mirrored(
    feeds: Iterable[Feed], held: Sequence[Feed], model: ir.Model, *, threads: int = 0
) -> Iterable[Feed]:
    """The feeds, with mirrored ones where these are few pictures that keep their classes so.

    Three quarters of the pictures in `held`, which are a fifth of all, must get the class that they
    get when mirrored: photos do, lines of text do not. Other feeds stay as they are, and so do
    those of models that give anything else than scores of classes.
    """
    looked_at = [dict(feed) for feed in islice(held, _LOOKED_AT)]
    axis = width_of(looked_at[0]) if looked_at else None
    if axis is None or EVERY * len(held) * _rows(looked_at[0]) >= FEW:
        return feeds
    session = Session.open(model, optimize=True, threads=threads)
    names = [str(value.name) for value in model.graph.outputs]
    same = []
    for feed in looked_at:
        first, second = (
            dict(zip(names, session.run(each, names), strict=True))
            for each in (feed, turned(feed, axis))
        )
        if choose(first) != "agreement":
            return feeds
        (name,) = (n for n, value in first.items() if np.asarray(value).dtype.kind == "f")
        same.append(np.argmax(first[name], axis=1) == np.argmax(second[name], axis=1))
    return Mirrored(feeds, axis) if np.concatenate(same).mean() >= _SAME_CLASS else feeds


def width_of(feed: Feed) -> int | None:
    """The axis from left to right, where a feed is nothing but pictures of floats."""
    arrays = [np.asarray(value) for value in feed.values()]
    if len(arrays) != 1 or arrays[0].ndim != 4 or arrays[0].dtype.kind != "f":
        return None
    shape = arrays[0].shape
    for channels, plane in ((1, (2, 3)), (3, (1, 2))):
        if shape[channels] in (1, 3) and min(shape[axis] for axis in plane) >= _SMALLEST:
            return plane[1]
    return None


def _rows(feed: Feed) -> int:
    return len(np.asarray(next(iter(feed.values()))))


def turned(feed: Feed, axis: int) -> Feed:
    """The feed with its arrays turned round along an axis."""
    return {name: np.flip(np.asarray(value), axis).copy() for name, value in feed.items()}
