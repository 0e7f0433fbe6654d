"""Fitting layer after layer: the walk through a model, the fit, and where a value counts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from pruning import drawn

from onnxopt.errors import BadInput
from onnxopt.prune import regression, sequence
from onnxopt.prune.apply import remove
from onnxopt.prune.goals import LEAST_BYTES, MOST_BYTES, room
from onnxopt.prune.groups import find_groups
from onnxopt.prune.products import Weights, all_products, limits, products
from onnxopt.prune.recover import absorb
from onnxopt.prune.regression import INFINITE, Vectors, bounded, outputs
from onnxopt.prune.relay import Relay, crossing_values
from onnxopt.prune.trial import Tap, Trials
from onnxopt.quantize.covariance import covariances

BRANCHES = """g (float[N,4,6,6] x, float[N,1,1,1] gate) => (float[N,8,6,6] y) {
    [stem] a = Conv(x, w0)
    [left] b = Conv<pads=[1,1,1,1]>(a, w1)
    r = Relu(b)
    [right] c = Conv(r, w2)
    s = Add(a, c)
    low = Constant<value = float {0.0}>()
    high = Constant<value = float {6.0}>()
    cut = Clip(s, low, high)
    y = Mul(cut, gate)
}"""


def _branches():
    return drawn(BRANCHES, w0=(8, 4, 1, 1), w1=(8, 8, 3, 3), w2=(8, 8, 1, 1))


def _feeds(count: int = 3):
    random = np.random.default_rng(0)
    return [
        {
            "x": random.normal(size=(1, 4, 6, 6)).astype(np.float32),
            "gate": np.full((1, 1, 1, 1), number + 1, np.float32),
        }
        for number in range(count)
    ]


def test_what_later_nodes_need_crosses() -> None:
    model = _branches()
    assert crossing_values(model, "stem") == ("x", "gate")
    assert crossing_values(model, "left") == ("gate", "a")
    assert crossing_values(model, "right") == ("gate", "a", "r")
    with pytest.raises(KeyError):
        crossing_values(model, "nowhere")


def test_a_walk_in_pieces_gives_the_values_of_a_whole_run() -> None:
    model, feeds = _branches(), _feeds()
    relay = Relay(feeds, threads=1)
    for node, wanted in (("stem", ["a"]), ("left", ["a", "r"]), ("right", ["r", "a", "y"])):
        found = list(relay.to(model, node, wanted))
        whole = Tap(model, wanted, threads=1)
        for feed, values in zip(feeds, found, strict=True):
            expected = whole.run(feed)
            assert set(values) == set(wanted)
            assert all(np.allclose(values[name], expected[name], atol=1e-5) for name in wanted)


def test_a_change_behind_the_walk_is_not_seen_again() -> None:
    model, feeds = _branches(), _feeds()
    relay = Relay(feeds, threads=1)
    before = list(relay.to(model, "right", ["r"]))
    silent = model.clone()
    weight = silent.graph.initializers["w1"]
    weight.const_value = ir.tensor(np.zeros((8, 8, 3, 3), np.float32))
    after = list(relay.to(silent, "right", ["r"]))
    assert before[0]["r"].any()
    assert np.array_equal(before[0]["r"], after[0]["r"])


def test_a_sample_that_overflows_is_named() -> None:
    feeds = _feeds(1)
    feeds[0]["x"] = np.full((1, 4, 6, 6), np.inf, np.float32)
    with pytest.raises(BadInput, match="'a' is NaN or infinite"):
        list(Relay(feeds, threads=1).to(_branches(), "left", ["a"]))


def test_a_value_counts_between_the_limits_of_what_reads_it() -> None:
    model = _branches()
    assert limits("b", model) == (0.0, float("inf"))
    assert limits("s", model) == (0.0, 6.0)
    assert limits("a", model) == INFINITE
    assert limits("y", model) == INFINITE


def test_goals_beyond_a_limit_are_met_by_all_that_lies_beyond() -> None:
    goals = np.array([-3.0, -3.0, 2.0, 9.0, 9.0])
    found = np.array([-1.0, 4.0, -5.0, 7.0, 1.0])
    assert bounded(goals, found, (0.0, 6.0)).tolist() == [-1.0, 0.0, 2.0, 7.0, 6.0]
    assert bounded(goals, found, INFINITE).tolist() == goals.tolist()


def _problem(count: int = 40):
    """Samples whose goals a weight reaches that is not the one at the start."""
    random = np.random.default_rng(1)
    weight, bias = random.normal(size=(1, 3, 5)), random.normal(size=3)
    reads = [random.normal(size=(1, 8, 5)) + 1 for _ in range(count)]
    return weight, bias, [(read, outputs(read, weight, bias)) for read in reads]


def test_the_fit_finds_what_made_the_goals() -> None:
    weight, bias, samples = _problem()
    vectors = Vectors()
    for read, goals in samples:
        vectors.add(read, goals)
    fitted, offset = vectors.fitted(np.zeros((1, 3, 5)), np.zeros(3))
    assert np.allclose(fitted, weight, atol=0.02)
    assert offset is not None and np.allclose(offset, bias, atol=0.05)


def test_what_is_added_later_is_taken_from_the_goals() -> None:
    weight, bias, samples = _problem()
    vectors = Vectors()
    for read, goals in samples:
        vectors.add(read, goals + 5, np.full_like(goals, 5))
    fitted, offset = vectors.fitted(np.zeros((1, 3, 5)), np.zeros(3))
    assert np.allclose(fitted, weight, atol=0.02)
    assert offset is not None and np.allclose(offset, bias, atol=0.05)


def test_behind_a_relu_the_fit_is_closer_where_it_counts() -> None:
    random = np.random.default_rng(2)
    reads = [random.normal(size=(1, 20, 3)) for _ in range(40)]
    # A line can't follow what bends below 0, and need not.
    bent = [np.where(r[0, :, :1] > 0, r[0, :, :1], 3 * r[0, :, :1] - r[0, :, 1:2]) for r in reads]
    plain, relu = Vectors(), Vectors((0.0, np.inf))
    for read, goals in zip(reads, bent, strict=True):
        plain.add(read, goals)
        relu.add(read, goals)
    losses = [
        sum(
            float(np.square(outputs(read, *fit).clip(0) - goals.clip(0)).sum())
            for read, goals in zip(reads, bent, strict=True)
        )
        for fit in (each.fitted(np.zeros((1, 1, 3)), np.zeros(1)) for each in (plain, relu))
    ]
    assert losses[1] < 0.8 * losses[0]


def test_with_few_samples_the_fit_holds_on_to_the_weight() -> None:
    random = np.random.default_rng(3)
    before = random.normal(size=(1, 2, 30))
    vectors = Vectors()
    for _ in range(10):
        read = random.normal(size=(1, 2, 30))
        vectors.add(read, outputs(read, before, None) + random.normal(size=(2, 2)))
    fitted, _ = vectors.fitted(before, None)
    assert np.square(fitted - before).mean() < 0.1


def test_samples_that_decide_on_the_ridge_are_never_fitted(monkeypatch) -> None:
    monkeypatch.setattr(regression, "RIDGES", (0.03,))
    weight, bias, samples = _problem()

    def fitted(wrong: int) -> list[np.ndarray]:
        vectors = Vectors()
        for number, (read, goals) in enumerate(samples):
            vectors.add(read, goals + 9 * (number % regression.EVERY == wrong))
        return [np.asarray(each) for each in vectors.fitted(weight, bias)]

    unmoved, moved = fitted(wrong=4), fitted(wrong=3)
    np.testing.assert_allclose(unmoved[1], bias, atol=1e-4)
    assert np.abs(moved[1] - bias).max() > 1


@pytest.mark.parametrize("count", [50, 160, 320, 800, 4000])
def test_blocks_decide_on_the_ridge_and_mirrored_pictures_stay_together(count: int) -> None:
    places = regression.decide(count)
    assert 0.1 <= len(places) / count <= 0.21
    # Five pictures and their five mirrored ones, see mirror.
    assert len({place // 10 for place in places}) == len(places) / 10
    runs = [place for place in places if place - 1 not in places]
    assert len(runs) <= 8


def test_few_samples_decide_one_by_one() -> None:
    assert regression.decide(12) == [4, 9]


def test_more_samples_take_no_more_memory() -> None:
    vectors = Vectors(most_bytes=20_000)
    weight, _, samples = _problem(400)
    for read, goals in samples:
        vectors.add(read, goals)
    assert vectors.nbytes <= 20_000
    fitted, _ = vectors.fitted(np.zeros((1, 3, 5)), np.zeros(3))
    assert np.allclose(fitted, weight, atol=0.05)


def test_of_many_pictures_vectors_from_everywhere_are_fitted() -> None:
    vectors = Vectors(most_bytes=10_000)
    places = np.arange(64) % 8
    for number in range(40):
        values = np.random.default_rng(number).normal(size=64)
        # Each column of a picture of 8x8 is read by a weight of its own.
        read = np.where(places[:, None] == np.arange(8), values[:, None], 0.0)[None]
        vectors.add(read, values[:, None] * (1 + places[:, None]))
    fitted, _ = vectors.fitted(np.zeros((1, 1, 8)), None)
    np.testing.assert_allclose(fitted[0, 0], np.arange(1, 9), rtol=0.1)


SEPARABLE = """g (float[N,4,6,6] x) => (float[N,8,4,4] y) {
    [first] a = Conv(x, w0, b0)
    ra = Relu(a)
    [deep] b = Conv<group=12, pads=[1,1,1,1]>(ra, w1, b1)
    rb = Relu(b)
    [point] c = Conv(rb, w2, b2)
    [last] y = Conv<group=8>(c, w3, b3)
}"""


def _separable():
    model = drawn(
        SEPARABLE, w0=(12, 4, 1, 1), b0=12, w1=(12, 1, 3, 3), b1=12, w2=(8, 12, 1, 1), b2=8,
        w3=(8, 1, 3, 3), b3=8,
    )  # fmt: skip
    groups = find_groups(model)
    known = products(model, [group for group in groups if not group.frozen])
    (group,) = (group for group in groups if group.size == 12)
    return model, groups, known, {group.name: (1, 4, 7, 9, 10)}


def test_depthwise_layers_are_fitted_with_as_many_groups_as_are_left() -> None:
    model, groups, known, removal = _separable()
    assert set(known) == {"first", "point"} or set(known) == {"point"}
    found = {each.node: each for each in all_products(remove(model, groups, removal), known)}
    assert list(found) == ["first", "deep", "point", "last"]
    assert found["deep"].vectors.group == 7
    assert len(found["point"].gone(removal)) == 5
    assert len(found["deep"].gone(removal)) == 0


def test_a_depthwise_layer_makes_up_for_what_went_before_it(monkeypatch) -> None:
    model, groups, known, removal = _separable()
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 4, 6, 6)).astype(np.float32)} for _ in range(60)]
    moments = covariances(model, feeds, list(known), threads=1)
    pruned = remove(absorb(model, known, moments, removal), groups, removal)
    trials = Trials(model, feeds[:20], threads=1)

    def refined():
        return sequence.refine(model, pruned, known, groups, removal, feeds, trials, threads=1)

    every = refined()
    (last,) = (each for each in all_products(pruned, known) if each.node == "last")
    changed = Weights(every).rows(last) - Weights(pruned).rows(last)
    assert np.abs(changed).max() > 0.01
    monkeypatch.setattr(sequence, "all_products", lambda model, known: list(known.values()))
    assert trials.divergence(every) < 0.99 * trials.divergence(refined())


def test_long_vectors_get_more_room_but_not_any() -> None:
    assert room(1, 64, 576) == LEAST_BYTES
    assert LEAST_BYTES < room(1, 384, 1536) < MOST_BYTES
    assert room(1, 4096, 6144) == MOST_BYTES
