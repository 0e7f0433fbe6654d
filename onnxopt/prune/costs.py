"""What a model costs as a function of how many channels each group still has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.apply import remove
from onnxopt.prune.records import Group

Weigh = Callable[[ir.Model], Mapping[str, float]]
"""Gives what each node of a model costs, by its name: multiply-accumulates, milliseconds."""


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the cost, and the power with which it falls with each group's share left."""

    cost: float
    powers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of a model with some channels gone, as a sum of products of shares left."""

    terms: tuple[Term, ...]
    sizes: Mapping[str, int]

    @property
    def total(self) -> float:
        return self({})

    def __call__(self, removed: Mapping[str, int]) -> float:
        left = {name: 1 - count / self.sizes[name] for name, count in removed.items()}
        total = 0.0
        for term in self.terms:
            share = 1.0
            for name, power in term.powers:
                if name in left:
                    share *= left[name] ** power
            total += term.cost * share
        return total

    def of(self, group: str) -> float:
        """The cost of all that the group has a part in."""
        names = (dict(term.powers) for term in self.terms)
        return sum(t.cost for t, powers in zip(self.terms, names, strict=True) if group in powers)


def by_node(model: ir.Model, groups: Sequence[Group], weigh: Weigh) -> Costs:
    """The costs that `weigh` finds, how each falls being found by halving one group at a time."""
    whole = {name: cost for name, cost in weigh(model).items() if cost > 0}
    powers: dict[str, list[tuple[str, float]]] = {name: [] for name in whole}
    for group in prunable(groups):
        count = group.size // 2 // group.multiple * group.multiple or group.size - group.multiple
        half = weigh(remove(model, groups, {group.name: tuple(range(count))}))
        for name, cost in whole.items():
            ratio = half.get(name, cost) / cost
            if 0 < ratio < 1 - 1e-9:
                power = math.log(ratio) / math.log(1 - count / group.size)
                powers[name].append((group.name, power))
    terms = tuple(Term(cost, tuple(powers[name])) for name, cost in whole.items())
    return Costs(terms, {group.name: group.size for group in groups})


def parameters(model: ir.Model, groups: Sequence[Group]) -> Costs:
    """How many elements the constants have."""
    powers: dict[str, list[tuple[str, float]]] = {}
    sizes = _sizes(model)
    for group in prunable(groups):
        for slot in group.slots:
            length = sizes.get(slot.value, {}).get(slot.axis, 0)
            carried = sum(map(len, slot.positions))
            if carried == length:
                powers.setdefault(slot.value, []).append((group.name, 1.0))
            elif length:
                # Only a part of the axis is the group's: nearly linear in what is left of it.
                powers.setdefault(slot.value, []).append((group.name, carried / length))
    terms = tuple(
        Term(math.prod(axes.values()), tuple(powers.get(name, ()))) for name, axes in sizes.items()
    )
    return Costs(terms, {group.name: group.size for group in groups})


def prunable(groups: Iterable[Group]) -> list[Group]:
    """The groups that are not frozen and have a channel to spare."""
    return [group for group in groups if not group.frozen and group.size > group.multiple]


def _sizes(model: ir.Model) -> dict[str, dict[int, int]]:
    values = [*model.graph.initializers.values()]
    values += [n.outputs[0] for n in model.graph if ops.is_standard(n, "Constant")]
    found = {}
    for value in values:
        tensor = ops.constant(value)
        if tensor is not None:
            found[str(value.name)] = dict(enumerate(map(int, tensor.shape.numpy())))
    return found
