"""Weight scales with which no 16-bit sum of two products overflows.

CPUs with AVX2 or AVX-512 but without VNNI multiply unsigned activation codes by signed weight codes
with `vpmaddubsw`: it adds the products of two neighbours along K in 16 bits and saturates. Two
products of one sign overflow where (a1 + a2 at their largest) times the weights passes 32767;
products of different signs never do. So a channel keeps all 8 bits where no pair can overflow, and
gets a coarser scale where one could: the same file is right with and without VNNI.

"Rows" are weights as the kernel reads them: one row for each output channel, K along the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxopt.quantize.records import Grid, Range

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_SUM = 32767
"""What fits into 16 bits; on the negative side there is room for one more."""


def top_code(grid: Grid, found: Range | None = None) -> int:
    """The largest unsigned code that activations reach: on `grid`, or on the range `found` in it.

    Signed grids count as if shifted to unsigned ones, as kernels do it.
    """
    if grid.dtype != "uint8" or found is None:
        return 255
    return int(np.clip(np.rint(found.high / grid.scale) + grid.zero_point, grid.zero_point, 255))


def pair_limit(top: int) -> int:
    """The largest |w1 + w2| of two codes of one sign that is safe for activations up to `top`."""
    return LARGEST_SUM // max(top, 1)


def is_depthwise(shape: Sequence[int], group: int) -> bool:
    """Whether a Conv of this weight runs on the kernel for one channel in, one out, in 32 bits.

    One with several channels out for each one in does not, and neither does one of a single
    channel in and one group: their sums are those of 16 bits.
    """
    return group > 1 and shape[1] == 1 and shape[0] == group


def kernel_rows(weight: Array, op_type: str, axis: int) -> Array:
    """A weight as rows [channels, K]: kh, kw, c order for Conv, along K for Gemm and MatMul."""
    if op_type == "Conv":
        return np.asarray(np.moveaxis(weight, 1, -1).reshape(len(weight), -1))
    return np.asarray(weight if axis == 0 else weight.T)


def kernel_order(shape: tuple[int, ...], op_type: str, axis: int) -> Array:
    """Where each column of `kernel_rows` stands in a weight's own order (channel, kh, kw)."""
    if op_type != "Conv":
        return np.arange(shape[1 - axis])
    places = np.arange(np.prod(shape[1:])).reshape(1, *shape[1:])
    return np.asarray(kernel_rows(places, op_type, 0)[0])


def from_kernel_rows(rows: Array, shape: tuple[int, ...], op_type: str, axis: int) -> Array:
    """The inverse of `kernel_rows` for a weight of `shape`."""
    if op_type == "Conv":
        spatial = rows.reshape(shape[0], *shape[2:], shape[1])
        return np.ascontiguousarray(np.moveaxis(spatial, -1, 1))
    return np.ascontiguousarray(rows if axis == 0 else rows.T)


def pair_sums(rows: Array) -> Array:
    """|w1 + w2| of each pair (2i, 2i+1) of one sign, else 0: float64 [channels, pairs]."""
    even = _evened(rows.astype(np.float64))
    left, right = even[:, 0::2], even[:, 1::2]
    return np.where(left * right > 0, np.abs(left + right), 0.0)


def saturates(codes: Array, top: int = 255) -> Array:
    """Which rows hold a pair that overflows for some activations up to `top`: bool [channels]."""
    return np.asarray(pair_sums(codes).max(axis=1, initial=0) > pair_limit(top))


def safe_scale(rows: Array, *, top: int | None = 255, limit: int = 127) -> Array:
    """The finest symmetric scale of each row that never saturates: float32 [channels].

    Args:
        rows: Float weights, [channels, K].
        top: The largest activation code; None where the kernel adds in 32 bits (depthwise).
        limit: The largest weight code, 127 for 8 bits and 63 for 7.
    """
    wanted = np.abs(rows).max(axis=1, initial=0).astype(np.float64) / limit
    if top is not None:
        worst = pair_sums(rows).max(axis=1, initial=0)
        wanted = np.maximum(wanted, worst / pair_limit(top))
    # Weights so small that the scale is denormal might as well be nought.
    return np.where(wanted > _LEAST, wanted, 1.0).astype(np.float32)


_LEAST = 2.0**-120


def nearest_safe_codes(
    rows: Array, scale: Array, *, top: int | None = 255, limit: int = 127
) -> Array:
    """Codes rounded to nearest, with pairs that rounding made too large taken back: int8."""
    exact = rows / scale[:, None].astype(rows.dtype)
    codes = np.clip(np.rint(exact), -limit, limit)
    if top is None or rows.shape[1] < 2:
        return np.asarray(codes.astype(np.int8))
    room, even = pair_limit(top), rows.shape[1] // 2 * 2
    left, right = codes[:, 0:even:2], codes[:, 1:even:2]
    channel, pair = np.nonzero((left * right > 0) & (np.abs(left + right) > room))
    while len(channel):
        first, second = left[channel, pair], right[channel, pair]
        # The one that was rounded up further (away from zero) loses least.
        pulls = [
            np.abs(code) - np.abs(exact[channel, 2 * pair + side])
            for side, code in enumerate((first, second))
        ]
        column = 2 * pair + (pulls[0] < pulls[1])
        codes[channel, column] -= np.sign(codes[channel, column])
        over = np.abs(left[channel, pair] + right[channel, pair]) > room
        channel, pair = channel[over], pair[over]
    return np.asarray(codes.astype(np.int8))


def saturating_product(activations: Array, rows: Array) -> Array:
    """What `vpmaddubsw` kernels compute: int64 [M, channels] from uint8 [M, K] and int8 rows.

    Each pair of products is added in 16 bits with saturation, the pairs in 32 bits.
    """
    left = _evened(activations.astype(np.int64))
    right = _evened(rows.astype(np.int64))
    total = np.zeros((len(left), len(right)), np.int64)
    for start in range(0, left.shape[1], 2):
        pair = left[:, start : start + 2] @ right[:, start : start + 2].T
        total += np.clip(pair, -LARGEST_SUM - 1, LARGEST_SUM)
    return total


def _evened(rows: Array) -> Array:
    """A copy with a column of zeros behind an odd K."""
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
