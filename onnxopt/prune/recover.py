"""Wins back what pruning cost, in closed form: no labels, no gradients.

First every product that read removed channels gets the best weight for those that are left, from
moments of the original (He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
Networks", 2017). Then, from the inputs to the outputs, each is fitted to what the original gives
there, from what the pruned model really has before it; behind a residual Add the target is the sum,
so that errors of the earlier layers are made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.prune.apply import Gone, gone_from
from onnxopt.prune.fit import damped, refit
from onnxopt.prune.products import Product, Weights, outputs_like, targets
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.trial import Tap, Trials
from onnxopt.quantize.covariance import PATCHES, Covariance
from onnxopt.quantize.patches import Window, drawn

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

RIDGE = 0.02
"""How strongly a fit holds on to the weight before it, against the mean variance of its inputs."""

_STEPS = ((1.0, 1.0), (50.0, 1.0), (50.0, 0.5))
"""How the ridge is multiplied and how much of the way is gone: what is tried of each fit."""
_MOST = 64


def absorb(
    model: ir.Model,
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    removal: Removal,
    *,
    least_squares: bool = True,
) -> ir.Model:
    """A copy of the model in which no product needs the channels in `removal` any more.

    The biases take up the means of what goes; with `least_squares` the weights of what stays make
    up for the rest. The weights of what goes are 0: nothing is sliced yet.
    """
    copy = model.clone()
    weights = Weights(copy)
    for name, product in products.items():
        gone = product.gone(removal)
        if len(gone) and name in moments:
            rows, bias = weights.rows(product), weights.bias(product)
            fitted = absorbed(rows, bias, moments[name], gone, least_squares=least_squares)
            weights.put(product, *fitted)
    return copy


def absorbed(
    rows: Array,
    bias: Array | None,
    moments: Covariance,
    gone: Array,
    *,
    least_squares: bool = True,
) -> tuple[Array, Array | None]:
    """A weight in the form of `rows` that does without the columns `gone`, and its bias."""
    kept = np.setdiff1d(np.arange(rows.shape[2]), gone)
    if least_squares and len(kept):
        matrices = damped(moments, centred=bias is not None)
        fitted = stretched(refit(rows, matrices, kept), matrices, variances(rows, matrices))
    else:
        fitted = rows.copy()
        fitted[:, :, gone] = 0
    if bias is None:
        return fitted, None
    shift = np.einsum("god,gd->go", rows - fitted, moments.mean).reshape(-1)
    return fitted, bias + shift


def variances(rows: Array, moments: Array) -> Array:
    """The variance of each output, float64 [groups, outputs]."""
    found: Array = np.einsum("goc,goc->go", np.matmul(rows, moments), rows)
    return found


def stretched(rows: Array, moments: Array, wanted: Array) -> Array:
    """The rows, so much longer that the outputs vary as wanted.

    A least-squares fit varies less than what it was fitted to. The errors of many layers are alike
    in that, and add up: on EfficientNet-Lite0 at three quarters of the work this takes a quarter
    off the divergence.
    """
    found = variances(rows, moments)
    scale = np.sqrt(wanted.clip(0) / found.clip(1e-12)).clip(0.5, 2.0)
    return np.where(found > 1e-12, scale, 1.0)[:, :, None] * rows


def refine(
    original: ir.Model,
    pruned: ir.Model,
    products: Mapping[str, Product],
    groups: Sequence[Group],
    removal: Removal,
    feeds: Iterable[Feed],
    trials: Trials,
    *,
    ridge: float = RIDGE,
    most: int = 512,
    patches: int = PATCHES,
    threads: int = 0,
    say: Say | None = None,
) -> ir.Model:
    """A copy of `pruned` whose products are fitted one after the other.

    A fit is kept where it brings the outputs nearer to the original's on the samples of `trials`,
    all of it or half the way; few samples can be fitted without that.

    Args:
        original: The model before.
        pruned: The same without the channels in `removal`, its products fitted by `absorb`.
        products: The products of both.
        groups: The groups of the original.
        removal: What is gone.
        feeds: Samples; each product reads them once.
        trials: Measures the divergence from the original.
        ridge: See RIDGE.
        most: Samples to use at most.
        patches: Vectors of a sample to look at.
        threads: Threads of the sessions.
        say: Told the share done and what is going on.
    """
    best, distance = pruned, trials.divergence(pruned)
    gone = gone_from(groups, removal)
    wanted = _wanted(products, removal)
    for index, product in enumerate(wanted):
        if say is not None:
            say(index / len(wanted), f"fitting {product.node}")
        pair = _Pair(original, best, product, gone, threads=threads)
        sums = _Sums()
        for number, feed in enumerate(islice(feeds, most), 1):
            sums.add(*pair.vectors(feed, patches, number))
        for model in _steps(best, product, sums, ridge):
            found = trials.divergence(model)
            if found < distance:
                best, distance = model, found
                break
    return best


def _wanted(products: Mapping[str, Product], removal: Removal) -> list[Product]:
    """The products from the first one that lost columns on; of very many those that lost some.

    The whole ones can make up for what others lost: the last ones before the outputs do most.
    """
    every = list(products.values())
    touched = [len(product.gone(removal)) > 0 for product in every]
    rest = every[touched.index(True) :] if any(touched) else []
    if len(rest) > _MOST:
        rest = [product for product, lost in zip(every, touched, strict=True) if lost]
    return rest


def _steps(model: ir.Model, product: Product, sums: _Sums, ridge: float) -> Iterator[ir.Model]:
    """Copies of the model with the product's weight moved to a fit, bold ones first."""
    weights = Weights(model)
    rows, bias = weights.rows(product), weights.bias(product)
    for level, share in _STEPS:
        fitted, offset = sums.solved(rows, bias, level * ridge)
        copy = model.clone()
        moved = None if bias is None or offset is None else bias + share * (offset - bias)
        Weights(copy).put(product, rows + share * (fitted - rows), moved)
        yield copy


class _Pair:
    """What a product of the pruned model reads, and what it should give."""

    def __init__(
        self,
        original: ir.Model,
        pruned: ir.Model,
        product: Product,
        gone: Gone,
        *,
        threads: int,
    ) -> None:
        self._product = product
        self._target, self._added = targets(product, original)
        self._gone = [(axis, at) for (name, axis), at in gone.items() if name == self._target]
        self._before = Tap(original, [self._target], threads=threads)
        wanted = [product.source, *([self._added] if self._added else [])]
        self._after = Tap(pruned, wanted, threads=threads)

    def vectors(self, feed: Feed, patches: int, number: int) -> tuple[Array, Array]:
        """Inputs [groups, n, columns] and what they should become [n, outputs]."""
        goal = self._before.run(feed)[self._target]
        for axis, at in self._gone:
            goal = np.delete(goal, at, axis=axis)
        found = self._after.run(feed)
        source = found[self._product.source]
        read = self._product.vectors.vectors(source, patches, number)
        if self._added:
            goal = goal - found[self._added]
        chosen = _chosen(self._product, source, goal, patches, number)
        return read, outputs_like(self._product, goal, chosen)


def _chosen(product: Product, source: Array, goal: Array, patches: int, number: int) -> Array:
    """The places of the vectors that `Vectors.vectors` draws, among the rows of the output."""
    if isinstance(product.vectors, Window):
        places = goal.shape[0] * int(np.prod(goal.shape[2:]))
        return drawn(places, patches * goal.shape[0], number)
    samples = source.shape[0] if source.ndim > 1 else 1
    axis = -2 if product.vectors.transposed else -1
    return drawn(source.size // source.shape[axis], patches * samples, number)


class _Sums:
    """Moments of inputs and goals, added up sample by sample."""

    def __init__(self) -> None:
        self._count = 0
        self._totals: list[Array] = []

    def add(self, read: Array, goal: Array) -> None:
        inputs = np.asarray(read, np.float32)
        wanted = np.asarray(goal, np.float32).reshape(len(goal), len(inputs), -1).swapaxes(0, 1)
        turned = inputs.swapaxes(1, 2)
        parts = [turned @ inputs, turned @ wanted, inputs.sum(axis=1), wanted.sum(axis=1)]
        if not self._totals:
            self._totals = [part.astype(np.float64) for part in parts]
        else:
            for total, part in zip(self._totals, parts, strict=True):
                total += part
        self._count += len(goal)

    def solved(self, rows: Array, bias: Array | None, ridge: float) -> tuple[Array, Array | None]:
        """The weight in the form of `rows`, and its bias, that reach the goals best."""
        if not self._count:
            return rows, bias
        second, cross, mean, goal = (total / self._count for total in self._totals)
        if bias is not None:
            second = second - mean[:, :, None] * mean[:, None, :]
            cross = cross - mean[:, :, None] * goal[:, None, :]
        fitted = np.empty_like(rows)
        for index, matrix in enumerate(second):
            level = ridge * max(float(np.trace(matrix)) / len(matrix), 1e-12)
            held = matrix + level * np.eye(len(matrix))
            fitted[index] = np.linalg.solve(held, cross[index] + level * rows[index].T).T
        if bias is None:
            return fitted, None
        return fitted, (goal - np.einsum("god,gd->go", fitted, mean)).reshape(-1)
