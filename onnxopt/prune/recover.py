"""Makes the products that are left stand in for what went, in closed form: no gradients.

Every product that read removed channels gets the best weight for those that are left, from moments
of the original. `sequence` then fits layer after layer to what really comes before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.prune.fit import damped, refit
from onnxopt.prune.products import Product, Weights
from onnxopt.prune.records import Removal
from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]


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
