"""Codes of weights that make up for each other's rounding errors.

Rounding each weight to nearest minimises the error of the weights; what counts is the error of the
outputs, (w - s q) H (w - s q)' with H the second moments of the inputs. Column by column, the error
that a code leaves is spread over the columns that are still open, in closed form from the Cholesky
factor of the inverse of H: Optimal Brain Quantization in the fixed order of GPTQ (Frantar et al.,
arXiv 2208.11580 and 2210.17323). A pass of coordinate descent then revisits each code.

All channels of a group are handled at once; a channel that would be worse than rounded to nearest
on the same objective stays rounded to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.quantize.saturation import nearest_safe_codes, pair_limit

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """What codes may be: at most `limit` each, and safe pairs for activations up to `top`."""

    limit: int = 127
    top: int | None = None

    def room(self, partner: Array) -> tuple[Array, Array]:
        """The smallest and the largest code beside `partner` codes."""
        if self.top is None:
            low = np.full(partner.shape, -float(self.limit))
            return low, -low
        # A pair of one sign has this much together; it is never less than one code may have.
        free = pair_limit(self.top)
        return (
            np.maximum(-free - np.minimum(partner, 0.0), -self.limit),
            np.minimum(free - np.maximum(partner, 0.0), self.limit),
        )


def output_error(rows: Array, codes: Array, scale: Array, second: Array) -> Array:
    """The squared error of each channel's output, (w - s q) H (w - s q)': float64 [G, N].

    Shapes as for `compensated_codes`.
    """
    error = rows.astype(np.float64) - codes.astype(np.float64) * scale.astype(np.float64)[..., None]
    return np.asarray(((error @ second) * error).sum(axis=-1))


def compensated_codes(
    rows: Array,
    scale: Array,
    second: Array,
    *,
    bounds: Bounds = Bounds(),
    damping: float = 0.01,
    refinements: int = 2,
) -> Array:
    """Codes of G groups of N channels; the channels of a group read the same K inputs.

    Args:
        rows: Float weights [G, N, K]. A depthwise convolution has N = 1.
        scale: Scale of each channel, float32 [G, N].
        second: Second moments of the inputs, float64 [G, K, K], K in the order of `rows`.
        bounds: What codes may be.
        damping: Added to the diagonal of the moments, as a part of its mean.
        refinements: Passes of coordinate descent.

    Returns:
        int8 [G, N, K].
    """
    flat = rows.reshape(-1, rows.shape[-1])
    nearest = nearest_safe_codes(flat, scale.reshape(-1), top=bounds.top, limit=bounds.limit)
    nearest = nearest.reshape(rows.shape)
    diagonal = np.diagonal(second, axis1=1, axis2=2)
    if not np.isfinite(second).all() or not (diagonal > 0).any():
        return np.asarray(nearest)
    # A group that only ever reads zeros has no preference: any diagonal will do.
    level = np.where(diagonal.mean(axis=1) > 0, diagonal.mean(axis=1), 1.0) * damping
    damped = second + np.eye(rows.shape[-1]) * level[:, None, None]
    exact = rows.astype(np.float64) / scale.astype(np.float64)[..., None]
    codes = _spread(exact, damped, bounds)
    for _ in range(refinements):
        codes = _descend(exact, codes, damped, bounds)
    better = output_error(rows, codes, scale, second) < output_error(rows, nearest, scale, second)
    return np.where(better[..., None], codes, nearest).astype(np.int8)


def _spread(exact: Array, second: Array, bounds: Bounds) -> Array:
    """Codes of weights given in units of their scale, the columns that matter most first."""
    size = exact.shape[-1]
    diagonal = np.diagonal(second, axis1=1, axis2=2).sum(axis=0)
    order = np.argsort(-diagonal, kind="stable")
    place = np.argsort(order, kind="stable")
    factor = _root_of_inverse(second[:, order][:, :, order])
    rest = exact[..., order].copy()
    codes = np.zeros_like(rest)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((*rest.shape[:2], stop - start))
        for column in range(start, stop):
            partner = order[column] ^ 1
            # What is not set yet holds zeros, which allow everything.
            beside = codes[..., place[partner]] if partner < size else np.zeros(rest.shape[:2])
            low, high = bounds.room(beside)
            codes[..., column] = np.clip(np.rint(rest[..., column]), low, high)
            error = (rest[..., column] - codes[..., column]) / factor[:, column, column, None]
            rest[..., column:stop] -= error[..., None] * factor[:, None, column, column:stop]
            errors[..., column - start] = error
        rest[..., stop:] -= errors @ factor[:, start:stop, stop:]
    return np.asarray(codes[..., place])


def _root_of_inverse(second: Array) -> Array:
    """The upper factor U with U' U the inverse of each matrix: float64 [G, K, K].

    Turned around, the Cholesky factor is that of the inverse but for a triangular inversion: a
    fraction of what inverting the matrix takes.
    """
    turned = np.linalg.cholesky(second[:, ::-1, ::-1])
    return _inverted(turned)[:, ::-1, ::-1]


def _inverted(lower: Array) -> Array:
    """The inverse of lower triangular matrices [G, K, K], by halves."""
    size = lower.shape[-1]
    if size <= _BLOCK:
        return np.asarray(np.linalg.inv(lower))
    half = size // 2
    first, last = _inverted(lower[:, :half, :half]), _inverted(lower[:, half:, half:])
    found = np.zeros_like(lower)
    found[:, :half, :half], found[:, half:, half:] = first, last
    found[:, half:, :half] = -last @ (lower[:, half:, :half] @ first)
    return found


def _descend(exact: Array, codes: Array, second: Array, bounds: Bounds) -> Array:
    """Move each code to the best one beside all others, once, column by column."""
    codes = codes.copy()
    gradient = (exact - codes) @ second
    for column in range(exact.shape[-1]):
        beside = column ^ 1
        partner = codes[..., beside] if beside < exact.shape[-1] else np.zeros(codes.shape[:2])
        low, high = bounds.room(partner)
        best = codes[..., column] + gradient[..., column] / second[:, column, column, None]
        moved = np.clip(np.rint(best), low, high) - codes[..., column]
        group, channel = np.nonzero(moved)
        if len(group):
            step = moved[group, channel]
            codes[group, channel, column] += step
            gradient[group, channel] -= step[:, None] * second[group, column]
    return codes
