"""Winning back what pruning cost, layer after layer."""

from __future__ import annotations

import numpy as np
from pruning import drawn, residual

from onnxopt.prune.apply import remove
from onnxopt.prune.products import Weights, products, separate, targets
from onnxopt.prune.recover import absorb
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Tap, Trials
from onnxopt.quantize.covariance import covariances


def _feeds(count: int = 24):
    random = np.random.default_rng(0)
    mixing = random.normal(size=(4, 4))
    made = random.normal(size=(count, 4, 6, 6))
    return [{"x": np.einsum("ij,njhw->nihw", mixing, made[i : i + 1]).astype(np.float32)}
            for i in range(count)]  # fmt: skip


def test_each_step_brings_the_outputs_nearer() -> None:
    model, groups, found = residual()
    feeds = _feeds()
    moments = covariances(model, feeds, list(found), threads=1)
    removal = {g.name: tuple(range(g.size // 2)) for g in groups if g.size in (12, 16)}
    assert len(removal) == 2
    trials = Trials(model, feeds[:6], threads=1)
    bare = remove(model, groups, removal)
    biased = remove(absorb(model, found, moments, removal, least_squares=False), groups, removal)
    squares = remove(absorb(model, found, moments, removal), groups, removal)
    refined = refine(model, squares, found, groups, removal, feeds, trials, threads=1)
    losses = [trials.divergence(each) for each in (bare, biased, squares, refined)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.5 * losses[0]
    assert trials.divergence(model) == 0


def test_nothing_removed_is_nothing_changed() -> None:
    model, groups, found = residual()
    feeds = _feeds(4)
    trials = Trials(model, feeds, threads=1)
    assert refine(model, model, found, groups, {}, feeds, trials, threads=1) is model


def test_behind_a_residual_sum_the_sum_is_the_target() -> None:
    model, groups, _ = residual()
    found = products(model, groups)
    assert targets(found["down"], model) == ("s", "a")
    assert targets(found["down2"], model) == ("y", "s")
    assert targets(found["up2"], model) == ("e0", "")


def test_a_tap_gives_inputs_and_inner_values() -> None:
    model, _, _ = residual()
    feed = _feeds(1)[0]
    found = Tap(model, ["x", "s"], threads=1).run(feed)
    assert np.array_equal(found["x"], feed["x"])
    assert found["s"].shape == (1, 8, 6, 6)


def test_weights_written_back_are_the_same() -> None:
    model, _, found = residual()
    before = {v.name: v.const_value.numpy().copy() for v in model.graph.initializers.values()}
    weights = Weights(model)
    for product in found.values():
        weights.put(product, weights.rows(product), weights.bias(product))
    for value in model.graph.initializers.values():
        assert np.array_equal(before[value.name], value.const_value.numpy())


def test_a_bias_that_layers_share_is_given_to_each() -> None:
    model = drawn(
        """g (float[N,4,2,2] x) => (float[N,4,2,2] y) {
            a = Conv(x, w1, b)
            y = Conv(a, w2, b)
        }""",
        w1=(4, 4, 1, 1), w2=(4, 4, 1, 1), b=4,
    )  # fmt: skip
    separate(model)
    first, second = (node.inputs[2].name for node in model.graph)
    assert first != second
