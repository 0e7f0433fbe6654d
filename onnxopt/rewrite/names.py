"""Names for new values and nodes, derived from old ones and unique in the whole model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

_NUMBERED = re.compile(r"^(.*)_(\d+)$", re.DOTALL)


class Names:
    """Hands out names that no value or node of the given graphs has."""

    def __init__(self, graphs: Iterable[ir.Graph]) -> None:
        self._values: set[str] = set()
        self._nodes: set[str] = set()
        self._next: dict[str, int] = {}
        for graph in graphs:
            self._values.update(value.name or "" for value in graph.inputs)
            self._values.update(graph.initializers)
            for node in graph:
                self._nodes.add(node.name or "")
                self._values.update(value.name or "" for value in node.outputs)

    def value(self, base: str) -> str:
        """`base` if it is free, else `base_1`, `base_2`, …"""
        return self._free(base, self._values)

    def node(self, base: str) -> str:
        """The same for nodes."""
        return self._free(base, self._nodes)

    def _free(self, base: str, taken: set[str]) -> str:
        if base in taken:
            numbered = _NUMBERED.match(base)
            base = numbered.group(1) if numbered else base
            number = self._next.get(base, 1)
            while f"{base}_{number}" in taken:
                number += 1
            self._next[base] = number + 1
            base = f"{base}_{number}"
        taken.add(base)
        return base
