"""Every edit of the engine, in order, with what it takes to undo it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Replacement:
    """One value that took another's place, and where the other was read."""

    old: ir.Value
    new: ir.Value
    uses: tuple[tuple[ir.Node, int], ...]
    output_slots: tuple[int, ...]
    old_name: str | None
    new_name: str | None


@dataclass(frozen=True, slots=True)
class Removal:
    """A node taken out of its graph, with the inputs it read."""

    node: ir.Node
    inputs: tuple[ir.Value | None, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One application of one rule.

    `site` names where it fired (the first output of the root, as it was called), which together
    with the rule finds the same rewrite again in another run on the same model.
    """

    rule: str
    site: str
    graph: ir.Graph
    added: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]
    replacements: tuple[Replacement, ...]
    removals: tuple[Removal, ...]


@dataclass(slots=True)
class Journal:
    """The entries of one run; `undo` takes back the latest ones first."""

    entries: list[Entry] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def hits(self) -> dict[str, int]:
        """Applications by rule, in order of first use."""
        return dict(Counter(entry.rule for entry in self.entries))

    def undo(self, keep: int = 0) -> None:
        """Take back every entry after the first `keep`, latest first.

        Nodes come back in a valid order, which need not be the one they had.
        """
        touched: dict[ir.Graph, None] = {}
        while len(self.entries) > keep:
            entry = self.entries.pop()
            touched[entry.graph] = None
            _undo(entry)
        for graph in touched:
            graph.sort()


def _undo(entry: Entry) -> None:
    for removal in reversed(entry.removals):
        _put_back(entry.graph, removal)
    for item in reversed(entry.replacements):
        item.new.name = item.new_name
        item.old.name = item.old_name
        for node, index in item.uses:
            node.replace_input_with(index, item.old)
        for slot in item.output_slots:
            entry.graph.outputs[slot] = item.old
    entry.graph.remove(reversed(entry.added), safe=True)
    for value in entry.constants:
        if value.name is not None:
            entry.graph.initializers.pop(value.name, None)


def _put_back(graph: ir.Graph, removal: Removal) -> None:
    for index, value in enumerate(removal.inputs):
        removal.node.replace_input_with(index, value)
    graph.append(removal.node)
