"""What will be left of the losses of cuts once the layers behind them have been fitted.

A loss is measured with nothing fitted but what reads the channels. The more layers follow, the more
of it they make up for later: two thirds near the inputs of a ResNet, a quarter near its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.prune.allocate import Menu
from onnxopt.prune.apply import remove
from onnxopt.prune.products import Product
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Tap, Trials
from onnxopt.prune.walk import name_of
from onnxopt.quantize.ahead import in_order, runs_at_once, threads_each
from onnxopt.quantize.covariance import PATCHES, Covariance

Say = Callable[[float, str], None]

PARTS = 4
"""In so many parts of its depth a model is cut to see what comes back."""
VECTORS = 4800
"""What products read is fitted to about so many vectors: fifty pictures have them, but of short
sentences only hundreds. Many fewer tell nothing, as a fit to them makes up for nothing."""
_LOOKED_AT = 4
_PRIOR = 0.1
"""So much of the mean loss of a part is added to what is lost and to what is left of it, so that
parts that lose next to nothing, which is all noise, count in full."""


def prospects(
    model: ir.Model,
    groups: Sequence[Group],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    offers: Sequence[Menu],
    choose: Callable[[Mapping[str, float]], Removal],
    feeds: Iterable[Feed],
    trials: Trials,
    *,
    threads: int = 0,
    say: Say | None = None,
) -> dict[str, float]:
    """For each group the share of its measured losses that will be left, by how deep it lies.

    Parts of the model, from the inputs to the outputs, are cut as is chosen where all losses count
    in full, each alone, and what is behind is fitted. It is compared with what `offers` say of
    these cuts; between the middles of the parts the shares are interpolated. Where that leads to a
    choice that is no better once it is fitted, all shares are 1: losses that grow much faster than
    the cuts, as those of transformers, are not told by a share.

    Args:
        model: The model that is to be pruned; `groups`, `products` and `moments` are its own.
        offers: What each group may give, and the losses.
        choose: Chooses from `offers` with such shares of the losses; those that are not given
            count in full.
        feeds: Samples to fit on; they are read more than once, as many as hold VECTORS.
        trials: Measures the divergence from the model.
    """
    menus = {menu.group: dict(zip(menu.counts, menu.losses, strict=True)) for menu in offers}
    names = _by_depth(model, [group for group in groups if group.name in menus])
    full = dict.fromkeys(names, 1.0)
    if not products:
        return full
    plain = choose(full)
    most = _runs(model, products, feeds, threads)
    at_once = runs_at_once(threads)
    each = threads_each(threads, at_once)

    def left(cut: Removal) -> float:
        smaller = remove(absorb(model, products, moments, cut), groups, cut)
        fitted = refine(
            model, smaller, products, groups, cut, feeds, trials,
            most=most, threads=each, careful=False,
        )  # fmt: skip
        return trials.divergence(fitted)

    def found(cuts: Sequence[Removal], done: int) -> Iterator[float]:
        for number, (_, divergence) in enumerate(in_order(left, cuts, at_once, begun_ahead=1)):
            if say is not None:
                say(
                    (done + number) / (PARTS + 2), "seeing what the layers behind a cut make up for"
                )
            yield divergence

    middles, lost, cuts = [], [], []
    bounds = np.linspace(0, len(names), PARTS + 1).round().astype(int).tolist()
    for start, end in pairwise(bounds):
        cut = {name: plain[name] for name in names[start:end] if plain.get(name)}
        loss = sum(menus[name][len(channels)] for name, channels in cut.items())
        if loss > 0:
            middles.append((start + end - 1) / 2)
            lost.append(loss)
            cuts.append(cut)
    if not lost:
        return full
    prior = _PRIOR * np.mean(lost)
    shares = (np.array([*found(cuts, 0)]) + prior) / (np.array(lost) + prior)
    values = np.interp(np.arange(len(names)), middles, shares).tolist()
    weighed = dict(zip(names, values, strict=True))
    other = choose(weighed)
    if other == plain:
        return full
    with_shares, without = found([other, plain], PARTS)
    return weighed if with_shares < without else full


def _runs(
    model: ir.Model, products: Mapping[str, Product], feeds: Iterable[Feed], threads: int
) -> int:
    """How many of the feeds have VECTORS for the usual product."""
    tap = Tap(model, [product.source for product in products.values()], threads=threads)
    counts = []
    for feed in islice(feeds, _LOOKED_AT):
        values = tap.run(feed)
        found = [p.vectors.vectors(values[p.source], PATCHES, 1) for p in products.values()]
        counts.append(float(np.median([vectors.shape[1] for vectors in found])))
    return math.ceil(VECTORS / max(float(np.mean(counts)), 1.0)) if counts else 1


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
