"""What channels are worth by each measure, and how outputs are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import drawn

from onnxopt.errors import BadInput, MissingExtra
from onnxopt.prune import score
from onnxopt.prune.groups import find_groups
from onnxopt.prune.products import products, separate
from onnxopt.prune.trial import divergence
from onnxopt.quantize.covariance import covariances

CHAIN = """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
    [first] a = Conv(x, w1, b1)
    [second] y = Conv(a, w2, b2)
}"""


def _chain(**others):
    given = {"w1": (4, 3, 1, 1), "b1": 4, "w2": (2, 4, 1, 1), "b2": 2} | others
    model = drawn(CHAIN, **given)
    separate(model)
    groups = find_groups(model)
    return model, groups, products(model, groups)


def _scores(method: str, **others) -> np.ndarray:
    model, groups, found = _chain(**others)
    samples = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)
    moments = {}
    if method in score.WITH_DATA:
        moments = covariances(model, [{"x": samples}], list(found), threads=1)
    values = score.scores(model, groups, found, moments, method=method)
    return next(array for array in values.values() if array.size == 4)


def _weight(*rows: float) -> np.ndarray:
    return np.array(rows, np.float32)[:, None, None, None] * np.ones((1, 3, 1, 1), np.float32)


@pytest.mark.parametrize("method", ["magnitude", "magnitude-l1", "activation", "reconstruction"])
def test_a_channel_of_small_weights_is_worth_least(method: str) -> None:
    read = np.ones((2, 4, 1, 1), np.float32) * np.array([1, 1, 0.01, 1], np.float32)[:, None, None]
    wide = np.random.default_rng(3).normal(size=(4, 3, 1, 1)).astype(np.float32)
    wide[2] *= 0.01
    assert _scores(method, w1=wide, w2=read).argmin() == 2


def test_the_filter_nearest_to_the_others_is_worth_least() -> None:
    assert _scores("fpgm", w1=_weight(-5, 0.9, 1.0, 8)).argmin() in (1, 2)
    assert _scores("fpgm", w1=_weight(-5, 0.9, 1.0, 8)).argmax() == 3


def test_a_channel_without_effect_is_worth_nothing_by_its_slope() -> None:
    model, groups, found = _chain()
    slopes = {"w1": np.ones((4, 3, 1, 1)), "w2": np.ones((2, 4, 1, 1))}
    slopes["w1"][1] = slopes["w2"][:, 1] = 0
    values = score.scores(
        model, groups, found, {}, method="taylor", gradients=lambda model, names: slopes
    )
    assert next(array for array in values.values() if array.size == 4).argmin() == 1


def test_slopes_need_torch() -> None:
    model, groups, found = _chain()
    with pytest.raises(MissingExtra, match="needs gradients"):
        score.scores(model, groups, found, {}, method="taylor")


def test_a_model_without_normalizations_has_no_scales() -> None:
    with pytest.raises(BadInput, match="no group has a BatchNormalization"):
        _scores("batchnorm")


def test_the_scale_of_a_normalization_is_a_score() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            n = BatchNormalization(a, s, b, m, v)
            y = Conv(n, w2)
        }""",
        w1=(4, 3, 1, 1), s=np.array([1, -2, 0.1, 3], np.float32), b=4, m=4,
        v=np.ones(4, np.float32), w2=(2, 4, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    values = score.scores(model, groups, {}, {}, method="batchnorm")
    found = next(array for array in values.values() if array.size == 4)
    assert np.allclose(found, [1, 2, 0.1, 3])


def test_random_scores_are_the_same_for_the_same_seed() -> None:
    assert np.array_equal(_scores("random"), _scores("random"))


def test_a_common_scale_of_scores_is_no_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 3
    assert divergence([{"y": logits}], [{"y": logits / 1.5}]) < 0.01
    assert divergence([{"y": logits}], [{"y": logits[:, ::-1].copy()}]) > 0.5


def test_other_outputs_differ_by_noise_over_signal() -> None:
    image = np.ones((1, 2, 3, 3), np.float32)
    assert divergence([{"y": image}], [{"y": image * 1.1}]) == pytest.approx(0.01, rel=1e-4)


def test_a_sample_that_the_model_is_unsure_of_does_not_outweigh_the_others() -> None:
    scores = np.array([[0.1, 0, -0.1], [6, 0, 1], [0, 6, 1], [1, 0, 6]], np.float32)
    one, rest = scores.copy(), scores.copy()
    one[0] = (-0.6, 0, 0.7)
    rest[1:] = ((4, 3, 1), (3, 4, 1), (1, 3, 4))
    lost = [divergence([{"y": scores}], [{"y": each}]) for each in (one, rest)]
    assert lost[1] > 5 * lost[0]


def test_a_classifier_does_not_diverge_from_itself() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    assert divergence([{"y": scores}], [{"y": scores}]) < 1e-12
