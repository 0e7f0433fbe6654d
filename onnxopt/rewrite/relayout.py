"""Writes the chosen nodes of a region anew, in their other layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxopt.rewrite import axes, moves
from onnxopt.rewrite.axes import Perm
from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.hit import NodeView, Operand
from onnxopt.rewrite.region import Region

OPEN_DIM = 64
"""What a dim of unknown size counts for where sizes are compared."""


@dataclass(slots=True)
class Relayout:
    """The replacement of `nodes` of a region by what they are in their other layouts."""

    op: RewriteBuilder
    region: Region
    nodes: set[NodeView]
    added: int = 0
    """The elements that new transpositions move, in front of nodes and behind."""
    _made: dict[NodeView, tuple[Any, ...]] = field(default_factory=dict)
    _known: dict[tuple[Operand, Perm | None], Any] = field(default_factory=dict)

    @classmethod
    def best(cls, op: RewriteBuilder, region: Region) -> Relayout | None:
        """The choice of nodes that saves the most transpositions, None where none saves any."""
        saved, nodes = region.choose() if region.moves else (0, set())
        return cls(op, region, nodes) if saved > 0 and nodes else None

    def replacements(self) -> dict[Operand, Any]:
        """For each value that something outside reads, what gives it now."""
        for node in self._ordered():
            inputs = [self._input(node, slot) for slot in range(len(node.inputs))]
            self._made[node] = moves.make(self.op, node, self.region.moves[node], inputs)
        result: dict[Operand, Any] = {}
        for node in self._made:
            for value in node.outputs:
                result.update(self._outside(value))
        return result

    def removed(self) -> int:
        """The elements that the transpositions move which are gone afterwards."""
        total = 0
        for value in self.region.layouts:
            if axes.transposition(value.producer) is not None:
                movers = self.region.movers(value)
                if not self.region.stays(value) and all(node in self.nodes for node in movers):
                    total += _elements(value)
            elif value.producer in self.nodes and self.region.gives(value):
                sinks = self.region.sinks(value)
                total += _elements(value) * sum(self.region.undoes(each, value) for each in sinks)
        return total

    def _ordered(self) -> Iterator[NodeView]:
        """The nodes, each after those that it reads, be it through a transposition."""
        done: set[NodeView] = set()
        stack = [node for node in self.region.moves if node in self.nodes]
        while stack:
            node = stack[-1]
            waiting = [each for each in self._before(node) if each not in done]
            if node in done or not waiting:
                stack.pop()
                if node not in done:
                    done.add(node)
                    yield node
            else:
                stack += waiting

    def _before(self, node: NodeView) -> Iterator[NodeView]:
        for operand in node.inputs:
            producer = None if operand is None else operand.producer
            if axes.transposition(producer) is not None and producer is not None:
                operand = producer.input(0)
                producer = None if operand is None else operand.producer
            if producer in self.nodes and producer is not None:
                yield producer

    def _outside(self, value: Operand) -> Iterator[tuple[Operand, Any]]:
        if not self.region.gives(value):
            if value.readers or value.is_graph_output:
                yield value, self._as_it_was(value)
            return
        for sink in self.region.sinks(value):
            yield sink.output, self._as_it_was(sink.output)
        movers = self.region.movers(value)
        if self.region.stays(value) or any(node not in self.nodes for node in movers):
            yield value, self._as_it_was(value)

    def _input(self, node: NodeView, slot: int) -> Any:
        operand = node.inputs[slot]
        if operand is None:
            return None
        perm = self.region.moves[node].inputs.get(slot)
        return self._as_it_was(operand) if perm is None else self._moved(operand, perm)

    def _moved(self, value: Operand, perm: Perm) -> Any:
        """The value in the layout."""
        key = (value, perm)
        if key not in self._known:
            self._known[key] = self._make_moved(value, perm)
        return self._known[key]

    def _make_moved(self, value: Operand, perm: Perm) -> Any:
        if value.is_const:
            array = value.array
            array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            return self.op.const(np.transpose(array, axes.inverse(perm)), like=value)
        producer = value.producer
        if producer in self._made and producer is not None and self.region.gives(value):
            return self._made[producer][producer.outputs.index(value)]
        source = axes.transposition(producer)
        if source is None or producer is None:
            return self._transposed(value, self._as_it_was(value), axes.inverse(perm))
        before = self._as_it_was(producer.inputs[0])
        if source == perm:
            return before
        return self._transposed(value, before, axes.composed(source, axes.inverse(perm)))

    def _as_it_was(self, value: Operand | None) -> Any:
        """What gives the value's own elements in their own order."""
        if value is None:
            return None
        key = (value, None)
        if key not in self._known:
            self._known[key] = self._make_as_it_was(value)
        return self._known[key]

    def _make_as_it_was(self, value: Operand) -> Any:
        producer = value.producer
        if producer in self._made and producer is not None:
            made = self._made[producer][producer.outputs.index(value)]
            if not self.region.gives(value):
                return made
            return self._transposed(value, made, self.region.layouts[value])
        source = axes.transposition(producer)
        before = producer.input(0) if source is not None and producer is not None else None
        if before is None or source is None or before.producer not in self._made:
            return value
        if not self.region.gives(before) or value in self.region.layouts:
            return value
        layout = self.region.layouts[before]
        perm = axes.composed(layout, source)
        moved = self._moved(before, layout)
        return moved if axes.is_identity(perm) else self.op.Transpose(moved, perm=list(perm))

    def _transposed(self, value: Operand, source: Any, perm: Perm) -> Any:
        self.added += _elements(value)
        return self.op.Transpose(source, perm=list(perm))


def _elements(value: Operand) -> int:
    return math.prod(
        dim if isinstance(dim, int) else OPEN_DIM for dim in value.shape or (OPEN_DIM,)
    )
