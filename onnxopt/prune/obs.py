"""Weights that make up for what is done to others, in closed form.

What counts is the error of the outputs, (w - x) H (w - x)' with H the second moments of the inputs.
`swept` settles column after column and spreads the error of each over those that are still open:
Optimal Brain Surgeon in a fixed order (Frantar and Alistarh, "SparseGPT", arXiv 2301.00774).
`refitted` then finds the best weights where the zeros are settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

Open: TypeAlias = "Callable[[Array, Array, int], Array]"
"""From a block of columns [groups, rows, block], what each is worth [groups, block] (the square of
a weight over it is what its loss costs) and where it starts, to which weights stay: bool."""

REFITS = 40
"""Steps of conjugate gradients at most."""
_DONE = 1e-8


def output_errors(rows: Array, changed: Array, second: Array) -> Array:
    """The mean squared error of each output: float64 [groups, outputs]."""
    error = changed - rows
    return np.asarray(((error @ second) * error).sum(axis=2))


def swept(
    rows: Array,
    second: Array,
    stays: Open,
    *,
    block: int,
    settle: Callable[[Array], Array] = lambda column: column,
) -> Array:
    """The rows with columns settled from the first to the last.

    Args:
        rows: Float64 [groups, rows, columns].
        second: Moments of the inputs, positive definite: float64 [groups, columns, columns].
        stays: Which weights of a block stay; the others become 0.
        block: Columns that are looked at together.
        settle: What a column [groups, rows] of those that stay becomes.
    """
    inverse = np.linalg.inv(second)
    factor = np.linalg.cholesky((inverse + inverse.swapaxes(1, 2)) / 2).swapaxes(1, 2)
    worth = np.square(np.diagonal(factor, axis1=1, axis2=2))
    rest, done = rows.copy(), np.zeros_like(rows)
    for start in range(0, rows.shape[2], block):
        stop = min(start + block, rows.shape[2])
        mask = stays(rest[..., start:stop], worth[:, start:stop], start)
        errors = np.empty((*rows.shape[:2], stop - start))
        for column in range(start, stop):
            kept = np.where(mask[..., column - start], settle(rest[..., column]), 0.0)
            error = (rest[..., column] - kept) / factor[:, column, column, None]
            rest[..., column:stop] -= error[..., None] * factor[:, None, column, column:stop]
            done[..., column], errors[..., column - start] = kept, error
        rest[..., stop:] -= errors @ factor[:, start:stop, stop:]
    return done


def refitted(rows: Array, start: Array, mask: Array, second: Array) -> Array:
    """The best rows with zeros outside `mask`, by conjugate gradients from `start`.

    All arguments are as for `swept`, `mask` is bool of the same shape. Every step lowers the error.
    """
    found = np.where(mask, start, 0.0)
    scale = 1 / np.diagonal(second, axis1=1, axis2=2)[:, None, :]
    residual = np.where(mask, (rows - found) @ second, 0.0)
    direction = residual * scale
    level = (residual * direction).sum(axis=2, keepdims=True)
    goal = _DONE * max(float(level.max()), 1e-30)
    for _ in range(REFITS):
        pushed = np.where(mask, direction @ second, 0.0)
        curve = (direction * pushed).sum(axis=2, keepdims=True)
        step = np.where(curve > 0, level / np.where(curve > 0, curve, 1.0), 0.0)
        found += step * direction
        residual -= step * pushed
        eased = residual * scale
        before, level = level, (residual * eased).sum(axis=2, keepdims=True)
        if float(level.max()) <= goal:
            break
        direction = eased + np.where(before > 0, level / np.maximum(before, 1e-300), 0) * direction
    return found
