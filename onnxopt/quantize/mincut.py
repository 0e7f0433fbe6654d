"""The cheapest way to give each of many things one of two labels, exactly.

Where every cost belongs to one thing, or to two that are labelled differently, the cheapest
labelling is a minimum cut of a graph, and that is found by pushing as much flow through it as it
takes (Dinic's algorithm).
"""

from __future__ import annotations

import math
from collections import deque

ENDLESS = math.inf
_LEAST = 1e-15


class Cut:
    """A graph between a source and a sink, to be cut where that is cheapest."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]
        self._ends: list[int] = []
        self._room: list[float] = []
        self.source, self.sink = 0, 1

    def add(self) -> int:
        """A new thing."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, start: int, end: int, cost: float) -> None:
        """What it costs that `start` goes with the source and `end` with the sink."""
        if cost <= 0:
            return
        for here, there, room in ((start, end, cost), (end, start, 0.0)):
            self._edges[here].append(len(self._ends))
            self._ends.append(there)
            self._room.append(room)

    def solve(self) -> frozenset[int]:
        """The things that go with the source in the cheapest cut; the fewest of them in a tie."""
        while True:
            levels = self._levels()
            if levels[self.sink] < 0:
                return frozenset(i for i, level in enumerate(levels) if level >= 0)
            places = [0] * len(self._edges)
            while self._push(levels, places):
                pass

    def _levels(self) -> list[int]:
        """How many edges with room lie between the source and each thing; -1 for out of reach."""
        levels = [-1] * len(self._edges)
        levels[self.source] = 0
        waiting = deque([self.source])
        while waiting:
            here = waiting.popleft()
            for edge in self._edges[here]:
                there = self._ends[edge]
                if levels[there] < 0 and self._room[edge] > _LEAST:
                    levels[there] = levels[here] + 1
                    waiting.append(there)
        return levels

    def _push(self, levels: list[int], places: list[int]) -> bool:
        """Fill one path from source to sink; whether there was one."""
        path: list[int] = []
        here = self.source
        while here != self.sink:
            edge = self._next(here, levels, places)
            if edge is not None:
                path.append(edge)
                here = self._ends[edge]
            elif not path:
                return False
            else:
                back = path.pop()
                here = self._ends[back ^ 1]
                places[here] += 1
        flow = min(self._room[edge] for edge in path)
        for edge in path:
            self._room[edge] -= flow
            self._room[edge ^ 1] += flow
        return True

    def _next(self, here: int, levels: list[int], places: list[int]) -> int | None:
        edges = self._edges[here]
        while places[here] < len(edges):
            edge = edges[places[here]]
            if self._room[edge] > _LEAST and levels[self._ends[edge]] == levels[here] + 1:
                return edge
            places[here] += 1
        return None
