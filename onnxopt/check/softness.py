"""How soft answers about classes must be for all samples to count."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SOFTNESS = 0.75
"""Scores of classes are divided by a temperature at which a model's answers have this share of the
entropy that they could have. Where a model is sure of nearly all samples, the few others make up
most of a divergence: what is chosen, or learned, by few samples then does not hold for others."""
_MOST = 64.0


def temperature(scores: Array) -> float:
    """What to divide scores of classes by, float64 [samples, classes]; see SOFTNESS. 1 at least."""
    low, high = 1.0, _MOST
    wanted = SOFTNESS * np.log(scores.shape[1])
    if _entropy(scores) >= wanted:
        return low
    while high / low > 1.001:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if _entropy(scores / middle) >= wanted else (middle, high)
    return high


def log_softmax(scores: Array) -> Array:
    """Logarithms of the shares that scores of classes, [samples, classes], come to."""
    moved = scores - scores.max(axis=1, keepdims=True)
    result: Array = moved - np.log(np.exp(moved).sum(axis=1, keepdims=True))
    return result


def _entropy(scores: Array) -> float:
    """In nats, the mean over the samples."""
    logarithms = log_softmax(scores)
    return float(-(np.exp(logarithms) * logarithms).sum(axis=1).mean())
