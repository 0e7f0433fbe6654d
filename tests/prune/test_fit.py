"""Closed forms: the order in which channels go, the refit, and how the outputs vary after it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.prune import fit
from onnxopt.prune.allocate import Menu, allocate, counts_of, spread
from onnxopt.prune.recover import absorbed, stretched, variances
from onnxopt.quantize.covariance import Covariance


def _moments(samples: np.ndarray) -> Covariance:
    second = samples.T @ samples / len(samples)
    return Covariance(second[None], samples.mean(axis=0)[None], len(samples))


def _twins() -> np.ndarray:
    """Four columns, the last a copy of the first and the third nearly silent."""
    random = np.random.default_rng(0)
    samples = random.normal(size=(400, 4)) * [1.0, 1.0, 0.05, 0.0] + [0, 1, 2, 0]
    samples[:, 3] = samples[:, 0]
    return samples


def test_a_copy_and_a_silent_channel_go_first() -> None:
    moments = fit.damped(_moments(_twins()), centred=True)
    rows = np.ones((1, 3, 4))
    order = fit.ordered([fit.Part(rows, moments, [[0], [1], [2], [3]])], 4)
    assert set(order.channels[:2]) <= {0, 2, 3} and order.channels[-1] != 2
    assert order.losses[2] < 0.1 < order.losses[3]
    assert (np.diff(order.losses) >= 0).all()


def test_channels_of_several_columns_go_as_one() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(size=(300, 6)) * [3, 3, 0.1, 0.1, 1, 1]
    moments = fit.damped(_moments(samples), centred=True)
    order = fit.ordered([fit.Part(np.ones((1, 2, 6)), moments, [[0, 1], [2, 3], [4, 5]])], 3)
    assert order.channels == (1, 2, 0)


def test_the_refit_is_the_least_squares_solution() -> None:
    random = np.random.default_rng(2)
    samples = random.normal(size=(500, 5)) @ random.normal(size=(5, 5))
    rows = random.normal(size=(1, 3, 5))
    second = (samples.T @ samples / len(samples))[None]
    kept = np.array([0, 2, 3])
    found = fit.refit(rows, second, kept)
    wanted = np.linalg.lstsq(samples[:, kept], samples @ rows[0].T, rcond=None)[0]
    assert np.allclose(found[0][:, kept], wanted.T, atol=1e-8)
    assert not found[0][:, [1, 4]].any()


def test_a_constant_channel_is_absorbed_by_the_bias() -> None:
    samples = np.random.default_rng(3).normal(size=(200, 3))
    samples[:, 1] = 2.5
    rows = np.array([[[1.0, -2.0, 0.5]]])
    fitted, bias = absorbed(rows, np.zeros(1), _moments(samples), np.array([1]))
    assert bias is not None and np.allclose(bias, -5.0, atol=1e-2)
    assert np.allclose(fitted[0, 0], [1, 0, 0.5], atol=1e-2)


def test_without_a_bias_the_mean_is_fitted_too() -> None:
    samples = np.random.default_rng(4).normal(size=(200, 2)) * 0.01 + 1
    rows = np.array([[[1.0, 1.0]]])
    fitted, bias = absorbed(rows, None, _moments(samples), np.array([1]))
    assert bias is None and fitted[0, 0, 0] == pytest.approx(2.0, rel=0.05)


def test_a_stretched_weight_keeps_the_variance_of_the_outputs() -> None:
    random = np.random.default_rng(5)
    samples = random.normal(size=(300, 4))
    moments = (samples.T @ samples / 300)[None]
    rows = random.normal(size=(1, 2, 4))
    short = fit.refit(rows, moments, np.array([0, 1]))
    wanted = variances(rows, moments)
    assert (variances(short, moments) < wanted).all()
    assert np.allclose(variances(stretched(short, moments, wanted), moments), wanted)


def test_what_never_varies_is_not_stretched() -> None:
    rows = np.zeros((1, 1, 2))
    assert not stretched(rows, np.eye(2)[None], np.ones((1, 1))).any()


def test_the_cheapest_loss_for_each_unit_goes_first() -> None:
    menus = [Menu("a", (0, 1, 2), (0.0, 1.0, 2.0)), Menu("b", (0, 1, 2), (0.0, 0.1, 5.0))]

    def price(removed) -> float:
        return 10.0 - removed.get("a", 0) - removed.get("b", 0)

    found = allocate(menus, price, 7.0)
    assert found.removed == {"a": 2, "b": 1}
    assert found.cost == 7.0 and found.loss == pytest.approx(2.1)


def test_many_at_once_where_the_first_ones_bring_little() -> None:
    menus = [Menu("a", (0, 1, 8), (0.0, 1.0, 1.1)), Menu("b", (0, 1), (0.0, 0.9))]
    found = allocate(menus, lambda removed: 10.0 - sum(removed.values()), 2.0)
    assert found.removed == {"a": 8}


def test_a_goal_out_of_reach_ends_at_the_bottom() -> None:
    found = allocate([Menu("a", (0, 2), (0.0, 1.0))], lambda r: 10.0 - r.get("a", 0), 1.0)
    assert found.cost == 8.0


@pytest.mark.parametrize(
    ("size", "rounding", "multiple", "most", "left"),
    [
        (32, 8, 1, 0.9, (32, 24, 16, 8)),
        (20, 8, 1, 0.9, (20, 16, 8)),
        (16, 8, 1, 0.5, (16, 8)),
        (12, 1, 4, 0.9, (12, 8, 4)),
        (3, 8, 1, 0.9, (3, 2, 1)),
        (1, 8, 1, 0.9, (1,)),
        (72, None, 1, 0.25, (72, 64, 56)),
        (48, None, 1, 0.25, (48, 44, 40, 36)),
    ],
)
def test_what_is_left_is_round(size, rounding, multiple, most, left) -> None:
    counts = counts_of(size, rounding=rounding, multiple=multiple, most=most)
    assert tuple(size - count for count in counts) == left


def test_a_measured_loss_never_falls() -> None:
    losses = spread((0, 1, 2, 3), {1: 0.5, 2: 0.4, 3: 1.0}, [0.0, 1.0, 2.0, 3.0])
    assert losses == pytest.approx((0.0, 0.5, 0.5, 1.0))
