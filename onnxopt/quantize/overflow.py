"""Where a product of codes can overflow 16 bits, and scales with which it can't.

Processors with AVX2 or AVX-512 and without VNNI add two products of a uint8 and an int8 code into
16 bits, and cut what does not fit. With input codes up to 255 the sum of two neighbours of one
sign passes that where their weights' codes add up to more than 128. The neighbours are those that
one instruction joins: elements 2i and 2i+1 in the order in which onnxruntime's kernel runs through
a weight (rows, columns, then channels of a convolution). Depthwise convolutions take another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxopt.quantize.saturation import is_depthwise, kernel_rows, pair_limit, pair_sums

Array = np.ndarray[Any, Any]

MOST = pair_limit(255)
"""The largest sum of two codes of one sign that can't overflow."""

_TRIES = 30


def channel_rows(
    codes: Array, op_type: str, transposed: bool = False, group: int = 1
) -> Array | None:
    """The weight as [channels, length], each row in the order of the kernel.

    `op_type` is Conv, Gemm or MatMul; `transposed` is transB of a Gemm, `group` that of a
    convolution. None for a depthwise convolution, and for what is none of these.
    """
    if op_type == "Conv" and codes.ndim >= 3 and not is_depthwise(codes.shape, group):
        return kernel_rows(codes, op_type, 0)
    if op_type in ("Gemm", "MatMul") and codes.ndim == 2:
        return kernel_rows(codes, op_type, 0 if transposed else 1)
    return None


def worst_pairs(rows: Array) -> Array:
    """For each channel the largest sum of two neighbours of one sign, as a positive number."""
    worst: Array = pair_sums(rows).max(axis=1, initial=0.0)
    return worst


def safe_codes(
    weight: Array, scale: Array, op_type: str, transposed: bool, group: int = 1
) -> tuple[Array, Array]:
    """Codes of a float weight and scales of its channels with which nothing overflows.

    The channels that need it get a larger scale. Their rounding errors are kept from adding up:
    in each window of a convolution, and then in each channel, as many are rounded the other way as
    brings their sum below one half (after Guo et al., SQuant, 2022), for what comes in is mostly of
    one sign and alike from place to place.

    Args:
        weight: The float weight.
        scale: float64 [channels]: its scales now. Those of channels that are safe stay.
        op_type: Conv, Gemm or MatMul.
        transposed: transB of a Gemm.
        group: That of a convolution.

    Returns:
        int8 codes of the weight's shape, and the new scales.
    """
    axis = 0 if op_type == "Conv" or transposed else weight.ndim - 1
    first = np.moveaxis(weight.astype(np.float64), axis, 0)
    windows = first.reshape(len(first), first.shape[1] if op_type == "Conv" else 1, -1)
    scale = scale.astype(np.float64).copy()
    codes = np.rint(windows / scale[:, None, None]).clip(-127, 127)
    for _ in range(_TRIES):
        found: Array = np.moveaxis(codes.reshape(first.shape), 0, axis).astype(np.int8)
        rows = channel_rows(found, op_type, transposed, group)
        worst = np.zeros(len(scale)) if rows is None else worst_pairs(rows)
        risky = worst > MOST
        if not risky.any():
            break
        # Rounding can push a pair back over the limit: a little more room each time.
        scale[risky] *= np.maximum(worst[risky] / MOST, 1 + 1 / 512)
        wanted = windows[risky] / scale[risky, None, None]
        whole = wanted.reshape(len(wanted), -1)
        codes[risky] = _balanced(
            _balanced(np.rint(wanted), wanted).reshape(whole.shape), whole
        ).reshape(wanted.shape)
    return found, scale


def _balanced(codes: Array, wanted: Array) -> Array:
    """Codes [..., count], some moved by one so that the errors along the last axis add up to less
    than 1/2. The moved ones are those that were rounded farthest the other way."""
    if wanted.shape[-1] == 1:
        return codes
    errors = codes - wanted
    surplus = np.rint(errors.sum(axis=-1, keepdims=True))
    highest, lowest = (np.argsort(np.argsort(part, axis=-1)) for part in (-errors, errors))
    moved = np.where(lowest < -surplus, 1, 0) - np.where(highest < surplus, 1, 0)
    balanced: Array = (codes + moved).clip(-127, 127)
    return balanced
