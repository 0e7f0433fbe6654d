"""Signed codes of 4 or 8 bits with a scale for each block of a row.

The scale of a block is the one of a few that leaves the least error, in the mean square of the
weights, or of what comes out where second moments of the inputs are known; with these the codes
then make up for each other's errors (see rounding.py), block scales fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_DIVISORS = {4: (6.5, 7.0, 7.5, 8.0, 8.5, 9.0, 10.0), 8: (127.0,)}
"""How many steps the largest weight of a block is taken for: more of them clip it."""
_LIMITS = {4: (-8, 7), 8: (-127, 127)}
_CHUNK = 1 << 20
_GROUP = 64
_LEAST = 2.0**-120


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """int8 codes [rows, K] (of 4 or 8 bits), float32 scales [rows, blocks], numbers a block."""

    codes: Array
    scale: Array
    block: int


def block_codes(rows: Array, bits: int, block: int, second: Array | None = None) -> BlockCodes:
    """Rows [N, K] in blocks of `block` along K; `second` is float64 [K, K], see covariance.py."""
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty((len(rows), -(-rows.shape[1] // block)), np.float32)
    importance = np.ones(rows.shape[1]) if second is None else np.diagonal(second)
    importance = importance + 1e-6 * max(float(importance.mean()), _LEAST)
    step = max(1, _CHUNK // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step], np.float32)
        found = _best_scales(part, bits, block, importance)
        scales[start : start + step] = found
        codes[start : start + step] = _nearest(part, _columns(found, block, part.shape[1]), bits)
    if second is None or not np.isfinite(second).all() or not np.diagonal(second).any():
        return BlockCodes(codes, scales, block)
    steps = _columns(scales, block, rows.shape[1])
    better = _compensated(rows.astype(np.float64), steps, second, bits)
    gain = _error(rows, better * steps, second) < _error(rows, codes * steps, second)
    return BlockCodes(np.where(gain[:, None], better, codes).astype(np.int8), scales, block)


def _best_scales(rows: Array, bits: int, block: int, importance: Array) -> Array:
    length = rows.shape[1]
    padding = (0, -length % block)
    padded = np.pad(rows, ((0, 0), padding)).reshape(len(rows), -1, block)
    weights = np.pad(importance, padding).reshape(-1, block)
    largest = np.abs(padded).max(axis=2)
    low, high = _LIMITS[bits]
    best = np.full(largest.shape, np.inf)
    scale = np.ones(largest.shape, np.float32)
    for divisor in _DIVISORS[bits]:
        tried = np.where(largest > _LEAST, largest / divisor, 1.0).astype(np.float32)
        codes = np.clip(np.rint(padded / tried[..., None]), low, high)
        errors = np.square(padded - codes * tried[..., None])
        cost = np.einsum("nbk,bk->nb", errors, weights)
        scale = np.where(cost < best, tried, scale)
        best = np.minimum(cost, best)
    return np.asarray(scale, np.float32)


def _columns(scale: Array, block: int, length: int) -> Array:
    """The scale of each weight: [N, K]."""
    return np.repeat(scale, block, axis=1)[:, :length]


def _nearest(rows: Array, steps: Array, bits: int) -> Array:
    return np.asarray(np.clip(np.rint(rows / steps), *_LIMITS[bits]).astype(np.int8))


def _error(rows: Array, numbers: Array, second: Array) -> Array:
    off = rows.astype(np.float64) - numbers
    return np.asarray(((off @ second) * off).sum(axis=1))


def _compensated(rows: Array, steps: Array, second: Array, bits: int) -> Array:
    """Codes column by column, the error of each spread over the columns still open."""
    size = rows.shape[1]
    damped = second + np.eye(size) * 0.01 * np.diagonal(second).mean()
    inverse = np.linalg.inv(damped)
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    rest, codes = rows.copy(), np.zeros(rows.shape)
    for start in range(0, size, _GROUP):
        stop = min(start + _GROUP, size)
        errors = np.empty((len(rows), stop - start))
        for column in range(start, stop):
            step = steps[:, column]
            codes[:, column] = np.clip(np.rint(rest[:, column] / step), *_LIMITS[bits])
            error = (rest[:, column] - codes[:, column] * step) / factor[column, column]
            rest[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors[:, column - start] = error
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
