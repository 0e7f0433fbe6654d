"""Sentences without their padding: what a mask hides must not be learned from, or measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Unpadded(Iterable[Feed]):
    """The feeds, those with padding one sentence at a time and as long as that is.

    `inputs` names the inputs that have a batch and a length for their first two dims, `mask` the
    one that is 0 where there is padding; it is empty where a model has none, and where its dims
    are fixed. Then the feeds stay as they are, as those do whose zeros are not at the end.
    """

    feeds: Iterable[Feed]
    mask: str
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, feeds: Iterable[Feed], model: ir.Model) -> Unpadded:
        """The feeds of a model, its inputs told by their names and dims."""
        shapes = {str(value.name): tuple(value.shape or ()) for value in model.graph.inputs}
        found = [name for name in shapes if "mask" in name.lower()]
        plane = shapes[found[0]] if len(found) == 1 else ()
        free = len(plane) == 2 and not any(isinstance(dim, int) for dim in plane)
        # An input of another form may hold on to the batch or the length in its own way.
        if free and all(shape[:2] == plane for shape in shapes.values()):
            return cls(feeds, found[0], tuple(shapes))
        return cls(feeds, "", ())

    def __iter__(self) -> Iterator[Feed]:
        for feed in self.feeds:
            lengths = self._lengths(feed)
            if lengths is None:
                yield feed
                continue
            for row, length in enumerate(lengths):
                yield {name: np.asarray(feed[name])[row : row + 1, :length] for name in feed}

    def _lengths(self, feed: Feed) -> list[int] | None:
        """How long each sentence is; None where nothing is to be cut off."""
        if not self.mask or set(feed) != set(self.inputs):
            return None
        mask = np.asarray(feed[self.mask])
        seen = mask != 0
        lengths = seen.sum(axis=1)
        trailing = np.arange(mask.shape[1]) < lengths[:, None]
        if seen.all() or not (seen == trailing).all() or not lengths.all():
            return None
        return [int(length) for length in lengths]
