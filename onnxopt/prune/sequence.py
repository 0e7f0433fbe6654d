"""Fits what is left of a pruned model layer after layer: no labels, no gradients.

From the inputs to the outputs, each product is fitted to what the original gives there, from what
the pruned model really has before it (He, Zhang and Sun, "Channel Pruning for Accelerating Very
Deep Neural Networks", 2017); behind a residual Add the target is the sum, so that errors of the
earlier layers are made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.prune.apply import Gone, gone_from
from onnxopt.prune.products import Product, Weights, all_products, limits, outputs_like, targets
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.regression import Vectors
from onnxopt.prune.relay import Relay
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import PATCHES
from onnxopt.quantize.patches import Window, drawn
from onnxopt.quantize.spool import repeatable

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

MOST = 4096
"""Runs to fit on at most."""
LEAST_BYTES, MOST_BYTES = 96 << 20, 320 << 20
"""The vectors of a product take at most this much, the more the longer they are; with more samples
there are fewer of each."""
_VECTORS_A_COLUMN = 8
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
        say: Told the share done and what is going on.
    """
    wanted = _wanted(all_products(pruned, products), removal)
    if not wanted:
        return pruned
    walk = _Walk(original, wanted, gone_from(groups, removal), feeds, most, threads, say)
    distance = trials.divergence(pruned)
    fitted = walk.through(pruned)
    if trials.divergence(fitted) < distance:
        return fitted
    return walk.through(pruned, trials) if careful else pruned


def _wanted(every: Sequence[Product], removal: Removal) -> list[Product]:
    """The products from the first one that lost columns on; of very many those that lost some.

    The whole ones can make up for what others lost: the last ones before the outputs do most.
    """
    touched = [len(product.gone(removal)) > 0 for product in every]
    rest = list(every[touched.index(True) :]) if any(touched) else []
    if len(rest) > _MOST_WHOLE:
        rest = [product for product, lost in zip(every, touched, strict=True) if lost]
    return rest


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
    ) -> None:
        self._original = original
        self._products = products
        self._gone = gone
        self._feeds = repeatable(feeds)
        self._most = most
        self._threads = threads
        self._say = say

    def through(self, model: ir.Model, trials: Trials | None = None) -> ir.Model:
        """Fit all products; with `trials` only where the outputs come nearer to the original's."""
        before = Relay(self._samples(), threads=self._threads)
        after = Relay(self._samples(), threads=self._threads)
        distance = None if trials is None else trials.divergence(model)
        for index, product in enumerate(self._products):
            if self._say is not None:
                self._say(index / len(self._products), f"fitting {product.node}")
            vectors = self._vectors(product, model, before, after)
            for candidate in _candidates(model, product, vectors):
                if trials is None or distance is None:
                    model = candidate
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
        target, added = targets(product, self._original)
        cut = [(axis, at) for (name, axis), at in self._gone.items() if name == target]
        wanted = [product.source, *([added] if added else [])]
        shape = Weights(model).rows(product).shape
        vectors = Vectors(limits(target, self._original), room(*shape))
        pairs = zip(
            before.to(self._original, product.node, [target]),
            after.to(model, product.node, wanted),
            strict=True,
        )
        for number, (should, found) in enumerate(pairs, 1):
            goal, source = should[target], found[product.source]
            for axis, at in cut:
                goal = np.delete(goal, at, axis=axis)
            chosen = _chosen(product, source, goal, number)
            vectors.add(
                product.vectors.vectors(source, PATCHES, number),
                outputs_like(product, goal, chosen),
                outputs_like(product, found[added], chosen) if added else None,
            )
        return vectors


def room(groups: int, outputs: int, columns: int) -> int:
    """How many bytes the vectors of a product with such a weight may take."""
    each = 4 * groups * (columns + 2 * outputs)
    return min(max(LEAST_BYTES, _VECTORS_A_COLUMN * columns * each), MOST_BYTES)


def _candidates(model: ir.Model, product: Product, vectors: Vectors) -> Iterator[ir.Model]:
    """Copies of the model with the product's weight moved to its fit, bold ones first."""
    weights = Weights(model)
    rows, bias = weights.rows(product), weights.bias(product)
    fitted, offset = vectors.fitted(rows, bias)
    for share in _SHARES:
        copy = model.clone()
        moved = None if bias is None or offset is None else bias + share * (offset - bias)
        Weights(copy).put(product, rows + share * (fitted - rows), moved)
        yield copy


def _chosen(product: Product, source: Array, goal: Array, number: int) -> Array:
    """The places of the vectors that `Vectors.vectors` draws, among the rows of the output."""
    if isinstance(product.vectors, Window):
        places = goal.shape[0] * int(np.prod(goal.shape[2:]))
        return drawn(places, PATCHES * goal.shape[0], number)
    samples = source.shape[0] if source.ndim > 1 else 1
    axis = -2 if product.vectors.transposed else -1
    return drawn(source.size // source.shape[axis], PATCHES * samples, number)
