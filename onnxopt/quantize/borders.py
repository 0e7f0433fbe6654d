"""What a border between floats and integers takes, from a model that is full of them.

A border is more than its Q or DQ: the runtime keeps images in one layout for its integer kernels
and in another for its float ones, and what changes the layout belongs to the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxopt.runtime.profile import NodeTime

LAYOUT = ("ReorderInput", "ReorderOutput", "Transpose")
ENOUGH = 10_000
"""Elements at borders of a kind from which on their time says something."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds an element: of the Q or DQ by itself, and with what changes the layout there."""

    bare: float
    whole: float


def border_rates(graph: onnx.GraphProto, times: Sequence[NodeTime]) -> dict[str, Rate]:
    """The rates of borders, for QuantizeLinear and DequantizeLinear where seen at work.

    Args:
        graph: What the runtime made of the model.
        times: What each of its nodes took.
    """
    sides = _Sides(graph)
    bare = {"QuantizeLinear": 0.0, "DequantizeLinear": 0.0}
    layout, elements = dict.fromkeys(bare, 0.0), dict.fromkeys(bare, 0)
    for timed in times:
        if timed.op_type in bare:
            bare[timed.op_type] += timed.seconds
            elements[timed.op_type] += timed.elements
        elif side := sides.of(timed.name):
            layout[side] += timed.seconds
    return {
        side: Rate(bare[side] / count, (bare[side] + layout[side]) / count)
        for side, count in elements.items()
        if count > ENOUGH
    }


class _Sides:
    """Which border each change of layout belongs to."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def of(self, name: str) -> str:
        """The operator of the border; empty where the layout changes for another reason."""
        node = self._nodes.get(name)
        if node is None or node.op_type not in LAYOUT:
            return ""
        makers, readers = self._before(node), self._behind(node)
        for side in ("QuantizeLinear", "DequantizeLinear"):
            if side in makers or side in readers:
                return side
        return ""

    def _before(self, node: onnx.NodeProto) -> set[str]:
        maker = self._makers.get(node.input[0])
        while maker is not None and maker.op_type in LAYOUT:
            maker = self._makers.get(maker.input[0])
        return set() if maker is None else {maker.op_type}

    def _behind(self, node: onnx.NodeProto) -> set[str]:
        found: set[str] = set()
        waiting = list(self._readers.get(node.output[0], ()))
        while waiting:
            reader = waiting.pop()
            if reader.op_type in LAYOUT:
                waiting += self._readers.get(reader.output[0], ())
            else:
                found.add(reader.op_type)
        return found
