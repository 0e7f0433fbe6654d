"""Answers are softened until all samples count."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.check.softness import SOFTNESS, temperature


@pytest.mark.parametrize(("spread", "coldest"), [(20.0, 8.0), (0.1, 1.0)])
def test_answers_are_softened_to_a_share_of_the_most_entropy(spread, coldest) -> None:
    scores = np.random.default_rng(0).normal(size=(50, 10)) * spread
    heat = temperature(scores)
    shares = np.exp(scores / heat) / np.exp(scores / heat).sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(axis=1).mean() / np.log(10)
    assert heat >= coldest and (heat == 1) == (entropy > SOFTNESS + 0.01)
    assert heat == 1 or entropy == pytest.approx(SOFTNESS, abs=0.01)
