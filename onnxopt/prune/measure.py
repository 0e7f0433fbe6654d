"""What it does to the outputs to take channels of one group: measured, at a few counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

_NO_SIZES: Mapping[str, int] = {}
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of what a group may give at most; the loss is measured at these."""

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
    rounding: int,
    caps: Callable[[str], float],
    sizes: Mapping[str, int] = _NO_SIZES,
    say: Say | None = None,
) -> list[Menu]:
    """What each prunable group may give, and the loss: measured, or by score without `trials`.

    A loss is what comes to that of the model as it is. `sizes` are those that groups had at first.
    """
    result = []
    before = 0.0 if trials is None else trials.divergence(model)
    able = [group for group in prunable(groups) if group.name in found]
    for index, group in enumerate(able):
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
        if trials is None:
            # Mean scores are 1 in every group, so that layers compare.
            unit = order.losses[-1] / group.size or 1.0
            losses = tuple(float(order.losses[count] / unit) for count in counts)
        else:
            if say is not None:
                say(index / len(able), f"measuring {group.name}")
            measured = {
                count: trials.divergence(
                    without(model, groups, products, moments, {group.name: chosen(order, count)})
                )
                - before
                for count in _looked_at(counts)
            }
            losses = spread(counts, measured, order.losses.tolist())
        result.append(Menu(group.name, counts, losses))
    return result


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
