"""Closed forms: what dropping channels costs after a least-squares refit, and the refit itself.

With S the covariance of what a product reads, its best weight on the kept columns K is
W' = W S[:, K] inv(S[K, K]), and dropping a block j of columns costs tr(w_j inv(P[j, j]) w_j') with
P = inv(S), w and P being updated as channels go (Hassibi and Stork, "Optimal Brain Surgeon", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]

SHRINK = 0.02
"""How much is added to the variances: what few samples never showed may still occur."""
_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Order:
    """Channels in the order in which they go, and the share of the output's variance that is lost
    when the first n of them are gone: float64 [size + 1], ascending."""

    channels: tuple[int, ...]
    losses: Array


@dataclass(frozen=True, slots=True)
class Part:
    """What one product adds to the cost: rows [groups, outputs, columns], moments of its inputs and
    the columns of each channel."""

    rows: Array
    moments: Array
    columns: Sequence[Sequence[int]]


def damped(covariance: Covariance, *, centred: bool) -> Array:
    """The moments with more weight on the diagonal, float64 [groups, columns, columns]."""
    second = np.array(covariance.centred if centred else covariance.second, np.float64)
    for matrix in second:
        variances = np.diag(matrix).clip(0)
        floor = _FLOOR + SHRINK * variances + 1e-3 * variances.mean()
        matrix[np.diag_indices_from(matrix)] += floor
    return second


def refit(rows: Array, moments: Array, kept: Array) -> Array:
    """The best weight on the kept columns, in the form of `rows` with zeros in the other ones."""
    fitted = np.zeros_like(rows)
    for index, (weight, matrix) in enumerate(zip(rows, moments, strict=True)):
        inner = matrix[np.ix_(kept, kept)]
        fitted[index][:, kept] = np.linalg.solve(inner, matrix[kept] @ weight.T).T
    return fitted


def ordered(parts: Sequence[Part], size: int, *, step: int = 1) -> Order:
    """Channels from the one whose loss costs least, `step` going at a time.

    The costs of several products are added up as shares of the variance of their outputs.
    """
    states = [state for part in parts for state in _states(part)]
    left = np.arange(size)
    channels: list[int] = []
    losses = [0.0]
    while len(left) > 1:
        costs = np.sum([state.costs(left) for state in states], axis=0)
        chosen = left[np.argsort(costs, kind="stable")[: min(step, len(left) - 1)]]
        each = np.sort(costs)[: len(chosen)]
        for number, cost in zip(chosen.tolist(), each.tolist(), strict=True):
            channels.append(number)
            losses.append(losses[-1] + cost)
        for state in states:
            state.drop(chosen)
        left = np.setdiff1d(left, chosen)
    losses.append(max(losses[-1], float(len(states))))
    return Order((*channels, *left.tolist()), np.array(losses))


class _State:
    """A product's weight and inverse moments on the columns that are left."""

    def __init__(self, weight: Array, moments: Array, columns: Sequence[Sequence[int]]) -> None:
        variance = float(np.einsum("oa,ab,ob->", weight, moments, weight, optimize=True))
        self._columns = np.array(columns, np.int64)
        self._weight = weight / np.sqrt(max(variance, _FLOOR))
        self._inverse = np.linalg.inv(moments)

    def costs(self, channels: Array) -> Array:
        at = self._columns[channels]
        if at.shape[1] == 1:
            flat = at[:, 0]
            found: Array = np.square(self._weight[:, flat]).sum(0) / self._inverse[flat, flat]
            return found
        blocks = self._inverse[at[:, :, None], at[:, None, :]]
        weights = np.moveaxis(self._weight[:, at], 0, 1)
        solved = np.linalg.solve(blocks, np.swapaxes(weights, 1, 2))
        return np.asarray(np.einsum("cok,cko->c", weights, solved))

    def drop(self, channels: Array) -> None:
        at = self._columns[channels].reshape(-1)
        kept = np.setdiff1d(np.arange(self._inverse.shape[0]), at)
        cross = self._inverse[np.ix_(at, kept)]
        solved = np.linalg.solve(self._inverse[np.ix_(at, at)], cross)
        weight = self._weight[:, kept] - self._weight[:, at] @ solved
        inverse = self._inverse[np.ix_(kept, kept)]
        inverse -= cross.T @ solved
        moved = np.full(self._inverse.shape[0], -1)
        moved[kept] = np.arange(len(kept))
        self._columns, self._weight, self._inverse = moved[self._columns], weight, inverse


def _states(part: Part) -> list[_State]:
    return [
        _State(weight, matrix, part.columns)
        for weight, matrix in zip(part.rows, part.moments, strict=True)
    ]
