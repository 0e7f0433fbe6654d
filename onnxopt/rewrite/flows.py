"""What a rule file sees of pruning: how the channels of a node's inputs reach its outputs.

Every axis of a tensor has a layout that says which channels its coordinates belong to. The flow of
an operator makes the layouts of its outputs out of those of its inputs, and says which have to be
equal. Whatever it does not ask for is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxopt.rewrite.hit import NodeView

Cells = NDArray[np.int64]
NOTHING = 0


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The tokens of each coordinate of an axis: `cells` is (size, tokens), None for a dynamic dim.

    `reason` says why coordinates without a token stay, for the user.
    """

    cells: Cells | None
    reason: str = ""

    @property
    def size(self) -> int | None:
        """The number of coordinates, None where it is dynamic."""
        return None if self.cells is None else len(self.cells)

    def take(self, indices: Sequence[int] | slice | NDArray[np.int64]) -> Layout:
        """The layout of an axis that holds these coordinates, in this order."""
        return self if self.cells is None else Layout(self.cells[indices], self.reason)


def fixed(size: int | None, reason: str) -> Layout:
    """The layout of an axis that nothing is removed from."""
    # At a size that an input can't have, inference gives dims below zero.
    known = size is not None and size >= 0
    return Layout(np.zeros((size or 0, 1), np.int64) if known else None, reason)


def join(layouts: Sequence[Layout]) -> Layout:
    """The layout of axes one after the other."""
    parts = [layout.cells for layout in layouts if layout.cells is not None]
    if len(parts) != len(layouts):
        return Layout(None, "its size changes from run to run")
    width = max(part.shape[1] for part in parts)
    reason = next((layout.reason for layout in layouts if layout.reason), "")
    return Layout(np.concatenate([padded(part, width) for part in parts]), reason)


def padded(cells: Cells, width: int) -> Cells:
    """Sets of tokens with room for `width` of them."""
    return np.pad(cells, ((0, 0), (width - cells.shape[1], 0)))


class Flow(Protocol):
    """A node, the layouts of its inputs, and what can be said about them.

    Axes may be negative. `of` gives the layout of an axis of an input; asking is what keeps the
    axis from being frozen. An input is counted as `node.inputs` counts.
    """

    @property
    def node(self) -> NodeView:
        """The node as rules read it."""

    def rank(self, index: int) -> int:
        """The rank of an input; 0 where it is left out. Unknown ranks never come here."""

    def of(self, index: int, axis: int) -> Layout:
        """The layout of an axis of an input."""

    def all_of(self, index: int) -> list[Layout]:
        """The layouts of all axes of an input."""

    def out_sizes(self, index: int = 0) -> list[int | None]:
        """The sizes of the axes of an output, None where dynamic."""

    def give(self, layouts: Sequence[Layout | None], index: int = 0) -> None:
        """Say the layouts of an output; None for an axis that nothing is removed from."""

    def equal(self, *layouts: Layout, why: str = "") -> Layout:
        """Let axes lose the same coordinates; those of size 1 are broadcast. The first that counts.

        Where the sizes or the shapes of the layouts disagree, all are kept, and `why` says so.
        """

    def merge(self, layouts: Iterable[Layout]) -> Layout:
        """The layout of axes merged into one, the last one fastest."""

    def split(self, layout: Layout, sizes: Sequence[int], why: str = "") -> list[Layout]:
        """The layouts of an axis split into several, the last one fastest."""

    def grouped(self, x: Layout, made: Layout, count: int) -> Layout:
        """The channels within the groups of `x`, each group of which makes a group of `made`."""

    def regroup(self, layouts: Sequence[Layout]) -> list[Layout]:
        """The layouts of the first output, which holds the elements of an input with these."""

    def computes_both(self) -> bool:
        """Whether neither of the first two inputs is a stored weight."""

    def new(self, size: int, kind: str = "") -> Layout:
        """The layout of an axis with channels of its own."""

    def keep(self, layout: Layout, why: str) -> None:
        """Keep all channels of an axis; `why` is a sentence without the node's name."""

    def keep_parts(self, layout: Layout, why: str) -> None:
        """Keep what was never a channel, such as the gates of an LSTM: nobody asks about it."""

    def label(self, layout: Layout, kind: str) -> None:
        """Say what the channels of an axis are called."""

    def sizes_in(self, index: int, layouts: Sequence[Layout]) -> None:
        """Say that an input holds the sizes of axes; those whose size can't follow are kept."""

    def ints(self, index: int) -> list[int | None] | None:
        """The elements of a small integer input, None for those that are computed."""

    def same(self, one: Layout, other: Layout) -> bool:
        """Whether two axes are known to lose the same coordinates."""

    def writes(
        self, axis: int, weight: tuple[int, int], bias: tuple[int, int] | None = None, out: int = 0
    ) -> None:
        """Say that an axis of an output is written by an axis of a weight (input, axis)."""

    def reads(self, index: int, axis: int, weight: tuple[int, int] | None = None) -> None:
        """Say that the node sums over an axis of an input, times an axis of a weight."""


class Resize(Protocol):
    """A node whose tensors have lost channels, and what of it can be rewritten."""

    @property
    def node(self) -> NodeView:
        """The node, with the shapes from before."""

    def kept(self, index: int, axis: int) -> NDArray[np.int64] | None:
        """The coordinates kept on an axis of an input, None where all are."""

    def kept_out(self, axis: int, index: int = 0) -> NDArray[np.int64] | None:
        """The coordinates kept on an axis of an output, None where all are."""

    def sizes(self, index: int) -> list[int | None]:
        """The elements of a shape that an input holds, None for those that are computed."""

    def set(self, name: str, value: Any) -> None:
        """Write an attribute."""

    def put(self, index: int, array: NDArray[Any]) -> None:
        """Put a constant in the place of an input, which may have been left out."""

    def drop(self, name: str) -> None:
        """Take an attribute away."""

    def put_sizes(self, index: int, numbers: Mapping[int, int]) -> None:
        """Put numbers in the place of elements of a shape that an input holds."""
