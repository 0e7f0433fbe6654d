"""What cutting one group does to the outputs: each is measured behind its own readers."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import residual

from onnxopt.prune import measure
from onnxopt.prune.measure import chosen, menus, without
from onnxopt.prune.relay import Relay
from onnxopt.prune.score import orders
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import covariances


@pytest.fixture(scope="module")
def found():
    model, groups, known = residual()
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 4, 6, 6)).astype(np.float32)} for _ in range(12)]
    moments = covariances(model, feeds, list(known), threads=1)
    ranked = orders(model, groups, known, moments)
    return model, groups, known, moments, ranked, Trials(model, feeds[:4], threads=1)


def _menus(found, **changes):
    model, groups, known, moments, ranked, trials = found
    moments = changes.get("moments", moments)
    return menus(model, groups, ranked, known, moments, trials, rounding=1, caps=lambda name: 0.9)


def test_running_what_lies_behind_a_cut_gives_what_a_whole_run_gives(found, monkeypatch) -> None:
    model, groups, known, moments, ranked, trials = found
    monkeypatch.setattr(measure, "_HIGH", np.inf)
    measuring = measure._Measuring(model, groups, known, moments, trials)
    for group in measuring.sorted(group for group in groups if group.name in ranked):
        order = ranked[group.name]
        losses = measuring.losses(group, order, range(group.size))
        assert len(losses) > 3
        for count, loss in losses.items():
            removal = {group.name: chosen(order, count)}
            whole = trials.divergence(without(model, groups, known, moments, removal))
            assert loss == pytest.approx(whole - trials.divergence(model), rel=1e-3)


def test_menus_come_in_the_order_of_the_groups(found) -> None:
    groups, result = found[1], _menus(found)
    names = [group.name for group in groups]
    assert [names.index(menu.group) for menu in result] == sorted(
        names.index(menu.group) for menu in result
    )


def test_a_group_whose_readers_were_not_measured_is_measured_all_the_same(found) -> None:
    moments = {name: each for name, each in found[3].items() if name != "down"}
    (whole,) = (menu for menu in _menus(found, moments=moments) if menu.group.split("/")[0] == "up")
    assert whole.losses[-1] > 0


def test_beyond_a_high_loss_only_the_last_share_is_measured(found, monkeypatch) -> None:
    asked: list[int] = []

    def divergence(self, removal, first):
        asked.extend(len(channels) for channels in removal.values())
        return 0.5 if asked[-1] > 1 else 0.01

    monkeypatch.setattr(measure._Measuring, "_divergence", divergence)
    (menu,) = (menu for menu in _menus(found) if menu.group == "up")
    counts = [count for count in asked if count]
    assert menu.counts[-1] == 14
    assert counts.count(14) == 1
    start = counts.index(14)
    assert counts[start - 2 : start + 1] == [1, 2, 14]


def test_what_is_asked_from_where_a_walk_stands_leaves_it_there(found) -> None:
    model, trials = found[0], found[5]
    relay = Relay(trials.feeds, threads=1)
    list(relay.to(model, "down", ()))
    outputs = [[each["y"] for each in relay.onward(model, ["y"])] for _ in range(2)]
    assert np.array_equal(*outputs)
    assert trials.distance({"y": y} for y in outputs[0]) < 1e-9
