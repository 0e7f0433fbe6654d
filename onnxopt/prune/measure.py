"""What it does to the outputs to take channels of one group: measured, at a few counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.prune.allocate import Menu, counts_of, spread
from onnxopt.prune.costs import prunable
from onnxopt.prune.fit import Order
from onnxopt.prune.oracle import zeroed
from onnxopt.prune.products import Product
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.relay import Relay
from onnxopt.prune.trial import Trials
from onnxopt.prune.walk import name_of
from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

_NO_SIZES: Mapping[str, int] = {}
SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""Of what a group may give at most; the loss is measured at these."""
_HIGH = 0.1
"""From a divergence of so much on, only the last share is still measured."""

WHOLE_KINDS = frozenset({"heads", "groups"})
"""Kinds of groups whose channels are worth taking one by one."""


def menus(
    model: ir.Model,
    groups: Sequence[Group],
    found: Mapping[str, Order],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    trials: Trials | None,
    *,
    rounding: int | None,
    caps: Callable[[str], float],
    sizes: Mapping[str, int] = _NO_SIZES,
    say: Say | None = None,
) -> list[Menu]:
    """What each prunable group may give, and the loss: measured, or by score without `trials`.

    A loss is what comes to that of the model as it is. `sizes` are those that groups had at first.
    What stands in a branch that no sample takes gives nothing: its loss is 0, and says nothing.
    """
    result = []
    able = [group for group in prunable(groups) if group.name in found]
    measure = None if trials is None else _Measuring(model, groups, products, moments, trials)
    for index, group in enumerate(able if measure is None else measure.sorted(able)):
        order = found[group.name]
        counts = counts_of(
            group.size,
            rounding=1 if group.kind in WHOLE_KINDS else rounding,
            multiple=group.multiple,
            most=caps(group.name),
            whole=sizes.get(group.name, group.size),
        )
        if len(counts) < 2:
            continue
        if measure is None:
            # Mean scores are 1 in every group, so that layers compare.
            unit = order.losses[-1] / group.size or 1.0
            losses = tuple(float(order.losses[count] / unit) for count in counts)
        else:
            if say is not None:
                say(index / len(able), f"measuring {group.name}")
            lost = measure.losses(group, order, counts)
            if not any(lost.values()) and is_within(group, model):
                continue
            losses = spread(counts, lost, order.losses.tolist())
        result.append(Menu(group.name, counts, losses))
    names = [group.name for group in able]
    return sorted(result, key=lambda menu: names.index(menu.group))


def is_within(group: Group, model: ir.Model) -> bool:
    """Whether all of a group lies in the bodies of other nodes."""
    nodes = {each.node for each in group.writers} | {each.node for each in group.readers}
    return nodes.isdisjoint(map(name_of, model.graph))


class _Measuring:
    """Cuts one group after the other, and runs only what lies behind each."""

    def __init__(
        self,
        model: ir.Model,
        groups: Sequence[Group],
        products: Mapping[str, Product],
        moments: Mapping[str, Covariance],
        trials: Trials,
    ) -> None:
        self._model, self._groups = model, groups
        self._products, self._moments = products, moments
        self._trials = trials
        self._before = trials.divergence(model)
        self._relay = Relay(trials.feeds, threads=trials.threads)
        self._places = {name_of(node): place for place, node in enumerate(model.graph)}

    def sorted(self, groups: Iterable[Group]) -> list[Group]:
        """The groups in the order in which the walk meets their readers."""
        return sorted(groups, key=lambda group: self._places.get(self._first(group), -1))

    def losses(self, group: Group, order: Order, counts: Sequence[int]) -> dict[int, float]:
        """What comes to the divergence with so many channels of a group, at some of the counts."""
        first = self._first(group)
        if first:
            for _ in self._relay.to(self._model, first, ()):
                pass
        found: dict[int, float] = {}
        for count in _looked_at(counts):
            if count == counts[-1] or max(found.values(), default=0.0) < _HIGH:
                removal = {group.name: chosen(order, count)}
                found[count] = self._divergence(removal, first) - self._before
        return found

    def _divergence(self, removal: Removal, first: str) -> float:
        changed = without(self._model, self._groups, self._products, self._moments, removal)
        if not first:
            return self._trials.divergence(changed)
        return self._trials.distance(self._relay.onward(changed, self._trials.names))

    def _first(self, group: Group) -> str:
        """The first node whose weight changes with the group; empty where others might before."""
        readers = [reader.node for reader in group.readers]
        known = all(name in self._moments and name in self._places for name in readers)
        return min(readers, key=self._places.__getitem__) if readers and known else ""


def chosen(order: Order, count: int) -> tuple[int, ...]:
    """The first `count` channels to go, in ascending order."""
    return tuple(sorted(order.channels[:count]))


def without(
    model: ir.Model,
    groups: Sequence[Group],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    removal: Removal,
) -> ir.Model:
    """The model as it would be without the channels, refitted, and no smaller."""
    copy = absorb(model, products, moments, removal)
    touched = [group for group in groups if removal.get(group.name)]
    if all(reader.node in moments for group in touched for reader in group.readers):
        return copy
    return zeroed(copy, groups, removal)


def _looked_at(counts: Sequence[int]) -> list[int]:
    last = len(counts) - 1
    return sorted({counts[max(1, round(share * last))] for share in SHARES})
