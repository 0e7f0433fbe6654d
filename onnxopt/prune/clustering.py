"""Weights that take a few values only: files that a compressor makes smaller.

The tensors keep their shape and type, so the file itself stays as large as it was, and no runtime
computes faster; it is what is sent or stored compressed that shrinks (Han, Mao and Dally, "Deep
Compression", arXiv 1510.00149).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io
from onnxopt.errors import BadInput
from onnxopt.prune.obs import output_errors, swept

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 65536
_ROUNDS = 60
_BLOCK = 64
_LARGEST = 2_000_000_000


def known_count(count: int) -> int:
    """The number of values of a palette. Raises BadInput where it is not between 2 and 65,536."""
    if not 2 <= count <= MOST:
        raise BadInput(
            f"weights can't be clustered to {count} values",
            hint=f"give 2 to {MOST:,}, such as 16 or 256",
        )
    return count


def palette(numbers: Array, weights: Array, count: int) -> Array:
    """At most `count` values that stand for the numbers best, ascending float64.

    Lloyd's k-means on a line, from values of equal shares of the numbers and of the range. The
    squared error of a number counts `weights` times; both arrays are flat and of one length. 0 is
    one of the values wherever it is among the numbers.
    """
    nonzero = numbers != 0
    values, where = np.unique(numbers[nonzero], return_inverse=True)
    zero = [] if nonzero.all() else [0.0]
    room = count - len(zero)
    if len(values) <= room:
        return np.unique([*values, *zero])
    mass = np.bincount(where, weights[nonzero], len(values))
    mass = np.maximum(mass, 1e-12 * max(float(mass.max()), 1e-30))
    centres = min(
        (_lloyd(values, mass, start) for start in _starts(values, mass, room)),
        key=lambda found: _spent(values, mass, found),
    )
    return np.unique([*centres, *zero])


def nearest(numbers: Array, values: Array) -> Array:
    """Each number's nearest of ascending values."""
    middles = (values[1:] + values[:-1]) / 2
    return np.asarray(values[np.searchsorted(middles, numbers)])


def clustered(rows: Array, second: Array | None, count: int, *, refit: bool = True) -> Array:
    """Rows that take at most `count` values between them, float64 [groups, rows, columns].

    Args:
        rows: The weights, float64 of that shape; those that are 0 stay so.
        second: Moments of the inputs, positive definite: float64 [groups, columns, columns]. A
            weight then counts as much as what it is multiplied with; None where it is not known.
        count: The values of a palette.
        refit: Choose values that make up for each other's errors, where that is better.
    """
    weights = np.ones_like(rows)
    if second is not None:
        weights = weights * np.diagonal(second, axis1=1, axis2=2)[:, None, :]
    values = palette(rows.reshape(-1), weights.reshape(-1), count)
    alive = rows != 0
    plain = np.where(alive, nearest(rows, values), 0.0)
    if second is None or not refit:
        return plain

    def stays(block: Array, worth: Array, start: int) -> Array:
        return np.asarray(alive[..., start : start + block.shape[2]])

    found = swept(rows, second, stays, block=_BLOCK, settle=lambda column: nearest(column, values))
    errors = (output_errors(rows, each, second).sum() for each in (found, plain))
    return found if next(errors) < next(errors) else plain


def zipped_bytes(model: ir.Model) -> int | None:
    """How large the model is once zlib has compressed it; None above 2 GB."""
    if io.model_bytes(model) > _LARGEST:
        return None
    return len(zlib.compress(io.to_bytes(model), 6))


def _starts(values: Array, mass: Array, count: int) -> list[Array]:
    share = (np.arange(count) + 0.5) / count
    below = np.cumsum(mass)
    return [
        values[np.searchsorted(below, share * below[-1]).clip(0, len(values) - 1)],
        values[0] + (values[-1] - values[0]) * share,
    ]


def _lloyd(values: Array, mass: Array, centres: Array) -> Array:
    sums = np.concatenate([[0.0], np.cumsum(mass)])
    totals = np.concatenate([[0.0], np.cumsum(mass * values)])
    for _ in range(_ROUNDS):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(values)]])
        weight = np.diff(sums[bounds])
        full = np.diff(bounds) > 0
        moved = np.where(full, np.diff(totals[bounds]) / np.where(full, weight, 1.0), centres)
        moved = np.sort(moved)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _spent(values: Array, mass: Array, centres: Array) -> float:
    return float((mass * (values - nearest(values, np.unique(centres))) ** 2).sum())
