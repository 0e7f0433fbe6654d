"""The cheapest way to part a graph in two, as a smallest cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

FOREVER = 1 << 30
"""The capacity of an edge that no cut may go through."""


@dataclass(slots=True)
class Cut:
    """A network from `source` to `sink`; edges of small whole capacities are the costs of a cut."""

    source: Hashable
    sink: Hashable
    _left: dict[Hashable, dict[Hashable, int]] = field(default_factory=dict)

    def edge(self, start: Hashable, end: Hashable, capacity: int = FOREVER) -> None:
        """Parting `start` (on the source's side) from `end` costs `capacity` more."""
        forth = self._left.setdefault(start, {})
        self._left.setdefault(end, {}).setdefault(start, 0)
        forth[end] = forth.get(end, 0) + capacity

    def solve(self) -> tuple[int, set[Hashable]]:
        """The cost of a smallest cut, and the smallest source's side of all such cuts.

        Time is the cost times the number of edges (Edmonds and Karp).
        """
        cost = 0
        while True:
            came = self._reach()
            if self.sink not in came:
                return cost, set(came)
            cost += self._push(came)

    def _reach(self) -> dict[Hashable, Hashable]:
        """Every place with free capacity from the source, and where from; stops at the sink."""
        came: dict[Hashable, Hashable] = {self.source: self.source}
        queue = deque([self.source])
        while queue:
            place = queue.popleft()
            for end, capacity in self._left.get(place, {}).items():
                if capacity > 0 and end not in came:
                    came[end] = place
                    if end == self.sink:
                        return came
                    queue.append(end)
        return came

    def _push(self, came: dict[Hashable, Hashable]) -> int:
        """Use the path that was found as far as it goes."""
        path, end = [], self.sink
        while end != self.source:
            path.append((came[end], end))
            end = came[end]
        amount = min(self._left[start][end] for start, end in path)
        for start, end in path:
            self._left[start][end] -= amount
            self._left[end][start] += amount
        return amount
