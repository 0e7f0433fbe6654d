"""What of a model can be pruned, what can't and why: the rows of `onnxopt prune --explain`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.prune.records import Carrier, Group, Slot
from onnxopt.prune.walk import is_weight, name_of, read_by, sizes_of


@dataclass(frozen=True, slots=True)
class Row:
    """A group as a user looks at it.

    `macs` are the multiply-accumulates of the nodes that have fewer of them when it shrinks, and
    `parameters` the elements that its channels have in all constants; groups share both.
    """

    group: str
    size: int
    kind: str
    multiple: int
    macs: float
    parameters: int
    frozen: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All groups, and the share of the multiply-accumulates that pruning can reach.

    `unreached` are the nodes with multiply-accumulates that no free group has a part in, each with
    its share and the reasons of the groups that it has a part in.
    """

    rows: tuple[Row, ...]
    macs: float
    prunable_macs: float
    unreached: tuple[tuple[str, float, tuple[str, ...]], ...]

    @property
    def prunable_share(self) -> float:
        """The part of the multiply-accumulates that a free group has a part in; 1 without any."""
        return self.prunable_macs / self.macs if self.macs else 1.0


def explain(
    model: ir.Model, groups: Sequence[Group], macs: Mapping[str, float] | None = None
) -> Explanation:
    """Say for every group what it costs and why it stays, if it does.

    `macs` are the multiply-accumulates of nodes, by their name or that of their first output.
    """
    cost = macs or {}
    touched, shapes = _touched(model, groups), _shapes(model)
    rows = tuple(
        Row(
            group.name,
            group.size,
            group.kind,
            group.multiple,
            sum(cost.get(node, 0) for node, found in touched.items() if group in found),
            _parameters(group, shapes),
            group.frozen,
        )
        for group in groups
    )
    total, reached, left = sum(cost.values()), 0.0, []
    for node, amount in cost.items():
        found = touched.get(node, ())
        if any(not group.frozen for group in found):
            reached += amount
        elif amount:
            reasons = tuple(dict.fromkeys(group.frozen for group in found))
            left.append((node, amount / total, reasons))
    left.sort(key=lambda each: -each[1])
    return Explanation(rows, total, reached, tuple(left))


def _touched(model: ir.Model, groups: Sequence[Group]) -> dict[str, tuple[Group, ...]]:
    """The groups that each node's inputs and outputs carry, in its bodies too, by its name."""
    by_value: dict[str, list[Group]] = {}
    for group in groups:
        for value in dict.fromkeys(place.value for place in _places(group)):
            by_value.setdefault(value, []).append(group)
    found: dict[str, tuple[Group, ...]] = {}
    for node in model.graph.all_nodes():
        values = (value for value in (*read_by(node), *node.outputs) if value is not None)
        met = [group for value in values for group in by_value.get(str(value.name), ())]
        found[name_of(node)] = tuple({group.name: group for group in met}.values())
    return found


def _parameters(group: Group, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many elements the channels of a group have in all constants that carry it."""
    left: dict[str, float] = {}
    for slot in group.slots:
        if slot.value in shapes:
            gone = sum(map(len, slot.positions)) / shapes[slot.value][slot.axis]
            left[slot.value] = left.get(slot.value, 1.0) * (1 - gone)
    return sum(round(math.prod(shapes[name]) * (1 - share)) for name, share in left.items())


def _shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """The shapes of all that may be a weight, by name."""
    graphs = (model.graph, *model.graph.subgraphs())
    values = [value for graph in graphs for value in graph.initializers.values()]
    values += [value for node in model.graph.all_nodes() for value in node.outputs]
    found = {}
    for value in filter(is_weight, values):
        sizes = sizes_of(value)
        if None not in sizes:
            found[str(value.name)] = tuple(size or 0 for size in sizes)
    return found


def _places(group: Group) -> Iterable[Slot | Carrier]:
    return (*group.slots, *group.carriers)
