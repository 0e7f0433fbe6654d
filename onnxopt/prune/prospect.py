"""What will be left of the losses of cuts once the layers behind them have been fitted.

A loss is measured with nothing fitted but what reads the channels. The more layers follow, the more
of it they make up for later: two thirds near the inputs of a ResNet, a quarter near its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.prune.allocate import Menu
from onnxopt.prune.apply import remove
from onnxopt.prune.products import Product
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Trials
from onnxopt.prune.walk import name_of
from onnxopt.quantize.covariance import Covariance

Say = Callable[[float, str], None]

PARTS = 4
"""In so many parts of its depth a model is cut to see what comes back."""
RUNS = 100
"""Runs to fit on: few will do to compare the parts."""
_PRIOR = 0.1
"""So much of the mean loss of a part is added to what is lost and to what is left of it, so that
parts that lose next to nothing, which is all noise, count in full."""


def prospects(
    model: ir.Model,
    groups: Sequence[Group],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    offers: Sequence[Menu],
    removal: Removal,
    feeds: Iterable[Feed],
    trials: Trials,
    *,
    threads: int = 0,
    say: Say | None = None,
) -> dict[str, float]:
    """For each group the share of its measured losses that will be left, by how deep it lies.

    Parts of the model, from the inputs to the outputs, are cut as in `removal`, each alone, and
    what is behind is fitted. It is compared with what `offers` say of these cuts; between the
    middles of the parts the shares are interpolated.

    Args:
        model: The model that is to be pruned; `groups`, `products` and `moments` are its own.
        offers: What each group may give, and the losses.
        removal: A likely choice from `offers`.
        feeds: Samples to fit on; the first RUNS are read.
        trials: Measures the divergence from the model.
    """
    menus = {menu.group: dict(zip(menu.counts, menu.losses, strict=True)) for menu in offers}
    names = _by_depth(model, [group for group in groups if group.name in menus])
    middles, losses, left = [], [], []
    bounds = np.linspace(0, len(names), PARTS + 1).round().astype(int).tolist()
    for part, (start, end) in enumerate(pairwise(bounds)):
        cut = {name: removal[name] for name in names[start:end] if removal.get(name)}
        lost = sum(menus[name][len(channels)] for name, channels in cut.items())
        if lost <= 0:
            continue
        if say is not None:
            say(part / PARTS, "seeing what the layers behind a cut make up for")
        smaller = remove(absorb(model, products, moments, cut), groups, cut)
        fitted = refine(
            model, smaller, products, groups, cut, feeds, trials,
            most=RUNS, threads=threads, careful=False,
        )  # fmt: skip
        middles.append((start + end - 1) / 2)
        losses.append(lost)
        left.append(trials.divergence(fitted))
    if not losses:
        return dict.fromkeys(names, 1.0)
    prior = _PRIOR * np.mean(losses)
    shares = (np.array(left) + prior) / (np.array(losses) + prior)
    found = np.interp(np.arange(len(names)), middles, shares)
    return dict(zip(names, found.tolist(), strict=True))


def weighed(offers: Iterable[Menu], shares: Mapping[str, float]) -> list[Menu]:
    """The offers with only those shares of their losses."""
    return [
        replace(menu, losses=tuple(loss * shares.get(menu.group, 1.0) for loss in menu.losses))
        for menu in offers
    ]


def _by_depth(model: ir.Model, groups: Iterable[Group]) -> list[str]:
    """The names of the groups in the order in which their first readers, or else writers, run."""
    places = {name_of(node): place for place, node in enumerate(model.graph)}

    def place(group: Group) -> int:
        nodes = [each.node for each in group.readers] or [each.node for each in group.writers]
        return min((places[node] for node in nodes if node in places), default=len(places))

    return [group.name for group in sorted(groups, key=place)]
