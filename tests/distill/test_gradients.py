"""Gradient times weight foretells what the loss of removing something is."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.distill.gradients import gradients, slopes
from onnxopt.errors import BadInput
from tests.distill.models import classifier, rows


def _feeds(count: int) -> list[dict[str, np.ndarray]]:
    x = rows(count)["x"]
    return [{"x": x[i : i + 1]} for i in range(count)]


def test_each_weight_has_an_array_of_its_shape_for_each_feed() -> None:
    model = classifier(6, seed=1)
    found = list(gradients(model, model, _feeds(3)))
    assert len(found) == 3
    assert {name: array.shape for name, array in found[0].items()} == {
        "w1": (8, 6),
        "b1": (6,),
        "w2": (6, 3),
        "b2": (3,),
    }


def test_a_model_that_is_its_own_teacher_has_gradients_all_the_same() -> None:
    model = classifier(6, seed=1)
    total = sum(np.abs(each["w2"]).sum() for each in gradients(model, model, _feeds(5)))
    assert total > 0.1


def test_half_the_mean_of_squared_sums_is_what_shrinking_a_channel_costs() -> None:
    model = classifier(6, seed=2)
    weights = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    feeds = _feeds(2500)
    foretold = np.zeros(6)
    for each in gradients(model, model, feeds):
        foretold += each["w2"].sum(1) ** 2 / len(feeds) / 2
    x = np.concatenate([feed["x"] for feed in feeds])
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)

    def log_p(kept: np.ndarray) -> np.ndarray:
        scores = (hidden * kept) @ weights["w2"]
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    whole, part = log_p(np.ones(6)), 0.05
    real = np.array(
        [
            (np.exp(whole) * (whole - log_p(1.0 - part * np.eye(6)[i]))).sum(1).mean() / part**2
            for i in range(6)
        ]
    )
    np.testing.assert_allclose(foretold, real, rtol=0.35)


def test_the_seed_fixes_what_is_drawn() -> None:
    model = classifier(6, seed=1)
    first, second, other = (
        list(gradients(model, model, _feeds(4), seed=seed)) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(a["w1"], b["w1"]) for a, b in zip(first, second, strict=True))
    assert any(not np.array_equal(a["w1"], b["w1"]) for a, b in zip(first, other, strict=True))


def test_no_feeds_are_refused() -> None:
    model = classifier(6, seed=1)
    with pytest.raises(BadInput, match="no samples"):
        list(gradients(model, model, []))


def test_mean_gradients_foretell_what_a_small_step_brings() -> None:
    model, x = classifier(6, seed=1), rows(64)["x"]
    weights = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    found = slopes(model, [{"x": x}])(model, ["w2", "not there"])
    assert set(found) == {"w2"}
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    best = (hidden @ weights["w2"]).argmax(1)

    def loss(w: np.ndarray) -> float:
        scores = hidden @ w
        log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        return float(-log_p[np.arange(len(x)), best].mean())

    step = np.random.default_rng(0).normal(size=weights["w2"].shape) * 1e-3
    moved = loss(weights["w2"] + step) - loss(weights["w2"] - step)
    assert 2 * (found["w2"] * step).sum() == pytest.approx(moved, rel=1e-2)
