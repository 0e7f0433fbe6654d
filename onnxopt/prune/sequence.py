"""Fits what is left of a pruned model layer after layer: no labels, no gradients.

From the inputs to the outputs, each product is fitted to what the original gives there, from what
the pruned model really has before it (He, Zhang and Sun, "Channel Pruning for Accelerating Very
Deep Neural Networks", 2017); behind a residual Add the target is the sum, so that errors of the
earlier layers are made up for. Where nothing but an activation lies between a product and the next
one, the first is then moved for what the second makes of it, see pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.prune.apply import Gone, gone_from
from onnxopt.prune.goals import Goal, gathered, moved
from onnxopt.prune.pairs import Walked, follower, together
from onnxopt.prune.products import Product, all_products
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.regression import Vectors
from onnxopt.prune.relay import Relay
from onnxopt.prune.trial import Trials
from onnxopt.quantize.spool import Spool, repeatable

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

MOST = 4096
"""Runs to fit on at most."""
_MOST_WHOLE = 256
_SHARES = (1.0, 0.5)
"""How much of the way to a fit is gone where each is tried on the outputs."""


def refine(
    original: ir.Model,
    pruned: ir.Model,
    products: Mapping[str, Product],
    groups: Sequence[Group],
    removal: Removal,
    feeds: Iterable[Feed],
    trials: Trials,
    *,
    most: int = MOST,
    threads: int = 0,
    careful: bool = True,
    rounds: int = 0,
    say: Say | None = None,
) -> ir.Model:
    """A copy of `pruned` whose products are fitted one after the other, or itself.

    Where that does not bring the outputs nearer to the original's on the samples of `trials`, as
    can be with few samples, it is done once more, keeping only the fits that do.

    Args:
        original: The model before.
        pruned: The same without the channels in `removal`, its products fitted by `absorb`.
        products: The products of both.
        groups: The groups of the original.
        removal: What is gone.
        feeds: Samples; they are read twice at most.
        trials: Measures the divergence from the original.
        most: Runs of `feeds` to use at most.
        threads: Threads of the sessions.
        careful: Do it once more where it was in vain; else take the better one of both models.
        rounds: How often a product and the one behind it are moved in turn, see pairs.
        say: Told the share done and what is going on.
    """
    wanted = _wanted(all_products(pruned, products), removal, pruned if rounds else None)
    if not wanted:
        return pruned
    walk = _Walk(original, wanted, gone_from(groups, removal), feeds, most, threads, say, rounds)
    distance = trials.divergence(pruned)
    fitted = walk.through(pruned)
    if trials.divergence(fitted) < distance:
        return fitted
    return walk.through(pruned, trials) if careful else pruned


def _wanted(every: Sequence[Product], removal: Removal, model: ir.Model | None) -> list[Product]:
    """The products from the first one that lost columns on; of very many those that lost some.

    The whole ones can make up for what others lost: the last ones before the outputs do most. With
    the model, those before a product that lost columns come along, see pairs.
    """
    touched = [len(product.gone(removal)) > 0 for product in every]
    start = touched.index(True) if any(touched) else len(every)
    rest = list(every[start:])
    if len(rest) > _MOST_WHOLE:
        rest = [product for product, lost in zip(every, touched, strict=True) if lost]
    if model is None or not rest:
        return rest
    ahead = [each for each in every[:start] if follower(each, rest, model) is not None]
    return [*ahead, *rest]


class _Walk:
    """All that fitting one product after the other needs to know."""

    def __init__(
        self,
        original: ir.Model,
        products: Sequence[Product],
        gone: Gone,
        feeds: Iterable[Feed],
        most: int,
        threads: int,
        say: Say | None,
        rounds: int,
    ) -> None:
        self._original = original
        self._products = products
        self._gone = gone
        self._feeds = repeatable(feeds)
        self._most = most
        self._threads = threads
        self._say = say
        self._rounds = rounds

    def through(self, model: ir.Model, trials: Trials | None = None) -> ir.Model:
        """Fit all products; with `trials` only where the outputs come nearer to the original's."""
        before = Relay(self._samples(), threads=self._threads)
        after = Relay(self._samples(), threads=self._threads)
        distance = None if trials is None else trials.divergence(model)
        for index, product in enumerate(self._products):
            if self._say is not None:
                self._say(index / len(self._products), f"fitting {product.node}")
            vectors = self._vectors(product, model, before, after)
            for candidate in moved(model, product, vectors, _SHARES):
                if trials is None or distance is None:
                    model = candidate
                    if self._rounds:
                        model = self._together(product, model, before, after)
                    break
                found = trials.divergence(candidate)
                if found < distance:
                    model, distance = candidate, found
                    break
        return model

    def _samples(self) -> Iterable[Feed]:
        return islice(self._feeds, self._most)

    def _vectors(self, product: Product, model: ir.Model, before: Relay, after: Relay) -> Vectors:
        """What a product of `model` reads on all samples, and what it should give."""
        goal = Goal.of(product, self._original)
        goals = self._whole(goal, before.to(self._original, product.node, [goal.name]))
        found = after.to(model, product.node, goal.needed(product))
        return gathered(product, model, goal, zip(goals, found, strict=True))

    def _whole(self, goal: Goal, samples: Iterable[Feed]) -> Iterator[Array]:
        """What should come out for each sample, less the channels that are gone."""
        cut = [(axis, at) for (name, axis), at in self._gone.items() if name == goal.name]
        for each in samples:
            found = np.asarray(each[goal.name])
            for axis, at in cut:
                found = np.delete(found, at, axis=axis)
            yield found

    def _together(self, first: Product, model: ir.Model, before: Relay, after: Relay) -> ir.Model:
        """Move a product for what the one behind it makes of it; both walks stand before it."""
        second = follower(first, self._products, model)
        if second is None:
            return model
        goal = Goal.of(second, self._original)
        goals = Spool(
            {"goal": each} for each in self._whole(goal, before.onward(self._original, [goal.name]))
        )
        walk = Walked(goals, after)
        return together(
            model, first, second, goal, walk, rounds=self._rounds, threads=self._threads
        )
