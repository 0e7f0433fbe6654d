"""A part of the graph that could run in another layout, and how much of it should.

Which nodes move is a smallest cut: each transposition that is left, on either side, costs one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from onnxopt.rewrite import axes, moves
from onnxopt.rewrite.affine import SMALL_BYTES
from onnxopt.rewrite.axes import Perm
from onnxopt.rewrite.cut import Cut
from onnxopt.rewrite.hit import NodeView, Operand
from onnxopt.rewrite.moves import TRANSPOSITION, Move

MOST_NODES = 400
"""A region stops growing here; what lies beyond stays as it is."""

MOVED, KEPT = "moved", "kept"


@dataclass(slots=True)
class Region:
    """The nodes around a value that could run in its other layout."""

    graph: Any
    layouts: dict[Operand, Perm] = field(default_factory=dict)
    moves: dict[NodeView, Move] = field(default_factory=dict)

    @classmethod
    def grow(cls, value: Operand, perm: Perm, graph: Any) -> Region:
        """All nodes of `graph` that `value` in the layout `perm` reaches, up to a limit."""
        region = cls(graph, {value: perm})
        queue = [value]
        for value in queue:
            for node, slot in _neighbours(value):
                if len(region.moves) == MOST_NODES:
                    return region
                if node.node.graph is graph and node not in region.moves:
                    queue += region._add(node, region.layouts[value], slot)
        return region

    def _add(self, node: NodeView, perm: Perm, slot: int | None) -> list[Operand]:
        """Take in the node if it can move and fits; gives the values that are new by it."""
        move = moves.moved(node, perm, slot)
        if move is None or not self._fits(node, move):
            return []
        self.moves[node] = move
        new = {value: layout for value, layout in _ends(node, move) if value not in self.layouts}
        self.layouts.update(new)
        return list(new)

    def _fits(self, node: NodeView, move: Move) -> bool:
        """Whether the node agrees with the layouts found so far, and copies no large constant."""
        if any(self.layouts.get(value, perm) != perm for value, perm in _ends(node, move)):
            return False
        constants = [node.inputs[slot] for slot in move.inputs]
        return not any(
            each is not None
            and each.is_const
            and not each.has_one_reader
            and each.array.nbytes > SMALL_BYTES
            for each in constants
        )

    def choose(self) -> tuple[int, set[NodeView]]:
        """What the best choice saves, and the fewest nodes that move for it.

        A saving above zero means fewer transpositions.
        """
        cut = Cut(MOVED, KEPT)
        now = sum(self._charge(cut, value, perm) for value, perm in self.layouts.items())
        for node, move in self.moves.items():
            if move.cost:
                cut.edge(node, KEPT, move.cost)
        cost, side = cut.solve()
        return now - cost, {node for node in self.moves if node in side}

    def _charge(self, cut: Cut, value: Operand, perm: Perm) -> int:
        """Add what the value costs on either side of the cut; gives its transpositions now."""
        movers = self.movers(value)
        source = axes.transposition(value.producer)
        if source is not None:
            _apart(cut, MOVED, ("down", value), movers, self.stays(value))
            if source != perm:
                _together(cut, movers, ("up", value), KEPT)
            return TRANSPOSITION
        producer: Hashable = value.producer
        if not self.gives(value):
            _together(cut, movers, ("up", value), KEPT)
            return 0
        _together(cut, movers, ("up", value), producer)
        _apart(cut, producer, ("down", value), movers, self.stays(value))
        undone = [node for node in self.sinks(value) if self.undoes(node, value)]
        cost = TRANSPOSITION * len(undone)
        cut.edge(MOVED, producer, cost)
        return cost

    def gives(self, value: Operand) -> bool:
        """Whether the node behind the value, moved, gives it in its other layout."""
        producer = value.producer
        move = None if producer is None else self.moves.get(producer)
        return move is not None and value.value.index() in move.outputs

    def movers(self, value: Operand) -> list[NodeView]:
        """The readers that would take the value in its other layout."""
        return [node for node in value.readers if self._takes(node, value)]

    def sinks(self, value: Operand) -> list[NodeView]:
        """The transpositions that could read the value in its other layout instead."""
        if not self.gives(value):
            return []
        return [
            node
            for node in value.readers
            if node.node.graph is self.graph
            and axes.transposition(node) is not None
            and node.output not in self.layouts
        ]

    def undoes(self, sink: NodeView, value: Operand) -> bool:
        """Whether the transposition gives just the value's other layout."""
        perm = axes.transposition(sink)
        return perm is not None and axes.is_identity(axes.composed(self.layouts[value], perm))

    def stays(self, value: Operand) -> bool:
        """Whether something reads the value that can take it only as it is."""
        able = {*self.movers(value), *self.sinks(value)}
        return value.is_graph_output or any(node not in able for node in value.readers)

    def _takes(self, node: NodeView, value: Operand) -> bool:
        move = self.moves.get(node)
        if move is None:
            return False
        return all(slot in move.inputs for slot, each in enumerate(node.inputs) if each == value)


def _ends(node: NodeView, move: Move) -> Iterator[tuple[Operand, Perm]]:
    """The values that change their layout with the node, constants left out."""
    for slot, perm in move.inputs.items():
        operand = node.inputs[slot]
        if operand is not None and not operand.is_const:
            yield operand, perm
    outputs = node.outputs
    for index, perm in move.outputs.items():
        yield outputs[index], perm


def _neighbours(value: Operand) -> Iterator[tuple[NodeView, int | None]]:
    """The nodes at the value, each with the input it reads it by, None for its producer."""
    producer = value.producer
    if producer is not None:
        yield producer, None
    for node in value.readers:
        yield node, next(slot for slot, each in enumerate(node.inputs) if each == value)


def _apart(
    cut: Cut, producer: Hashable, place: Hashable, readers: Iterable[Hashable], stays: bool
) -> None:
    """Charge a transposition where the producer moves and a reader does not."""
    cut.edge(producer, place, TRANSPOSITION)
    for node in readers:
        cut.edge(place, node)
    if stays:
        cut.edge(place, KEPT)


def _together(cut: Cut, readers: Iterable[Hashable], place: Hashable, producer: Hashable) -> None:
    """Charge a transposition where a reader moves and the producer does not."""
    for node in readers:
        cut.edge(node, place)
    cut.edge(place, producer, TRANSPOSITION)
