"""From a target to a plan, in one step or in several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pruning import drawn

from onnxopt.bench.cost import macs_by_node
from onnxopt.errors import BadInput
from onnxopt.prune import search, steps
from onnxopt.prune.allocate import counts_of
from onnxopt.prune.plan import Target
from onnxopt.prune.trial import Trials

CHAIN = """g (float[N,4,8,8] x) => (float[N,10] y) {
    a0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    a = Relu(a0)
    c0 = Conv<pads=[1,1,1,1]>(a, w1, b1)
    c = Relu(c0)
    d0 = Conv(c, w2, b2)
    d = Relu(d0)
    e = GlobalAveragePool(d)
    f = Flatten(e)
    y = Gemm(f, w3, b3)
}"""


def _chain():
    model = drawn(
        CHAIN, w0=(16, 4, 3, 3), b0=16, w1=(16, 16, 3, 3), b1=16, w2=(24, 16, 1, 1), b2=24,
        w3=(24, 10), b3=10,
    )  # fmt: skip
    random = np.random.default_rng(0)
    mixing = random.normal(size=(4, 4))
    made = random.normal(size=(30, 4, 8, 8))
    feeds = [
        {"x": np.einsum("ij,njhw->nihw", mixing, made[i : i + 1]).astype(np.float32)}
        for i in range(30)
    ]
    return search.Subject.of(model), feeds


def _plan(value: float, **options):
    subject, feeds = _chain()
    said: list[str] = []
    settings = search.Settings(Target("macs", value), rounding=4, threads=1, **options)
    moments = search.moments_of(subject, feeds[:24], threads=1)
    trials = Trials(subject.model, feeds[24:], threads=1)
    price = search.price_of(subject, settings.target, macs_by_node)
    plan = steps.make_plan(
        subject, moments, trials, settings, price, calibration=feeds[:24],
        say=lambda share, doing: said.append(doing),
    )  # fmt: skip
    removed = {name: len(channels) for name, channels in plan.removal.items()}
    return plan, price(removed) / price.total, said


def _measured(said: list[str]) -> int:
    return sum(doing.startswith("measuring conv") for doing in said)


def test_a_small_part_goes_in_one_step() -> None:
    _, left, said = _plan(0.75)
    assert left <= 0.75 and _measured(said) == 3
    assert not any(doing.startswith("fitting") for doing in said)


def test_a_large_part_goes_in_several() -> None:
    plan, left, said = _plan(0.45)
    assert left <= 0.45 and _measured(said) > 6
    assert any(doing.startswith("fitting") for doing in said)
    kept = [g.size - len(g.remove) for g in plan.groups if g.remove]
    assert kept and all(count % 4 == 0 for count in kept)


def test_no_group_gives_more_than_its_share_in_all_steps_together() -> None:
    plan, _, _ = _plan(0.5, caps={"*": 0.5})
    assert all(len(group.remove) <= group.size / 2 for group in plan.groups)


def test_without_a_fit_it_goes_in_one_step() -> None:
    _, _, said = _plan(0.45, recover="bias")
    assert _measured(said) == 3


def test_what_is_out_of_reach_is_said_before_anything_goes() -> None:
    with pytest.raises(BadInput, match=r"macs 0\.1 is out of reach: .* 0\.[2-9]"):
        _plan(0.1, caps={"*": 0.5})


def test_two_removals_are_one() -> None:
    subject, _ = _chain()
    name = next(group.name for group in subject.groups if group.size == 24 and not group.frozen)
    found = steps.together(subject.groups, {name: (0, 2)}, {name: (0, 1, 21)})
    assert found == {name: (0, 1, 2, 3, 23)}


def test_groups_that_are_others_after_a_step_are_told() -> None:
    subject, _ = _chain()
    group = next(g for g in subject.groups if g.size == 24 and not g.frozen)
    gone = {group.name: (0, 2, 4, 5)}
    smaller = [replace(g, size=20) if g is group else g for g in subject.groups]
    assert steps.follows(subject.groups, gone, smaller)
    assert not steps.follows(subject.groups, gone, subject.groups)
    renamed = [replace(g, name="another") if g.size == 20 else g for g in smaller]
    assert not steps.follows(subject.groups, gone, renamed)


def test_where_groups_change_all_goes_in_one_step(monkeypatch) -> None:
    monkeypatch.setattr(steps, "follows", lambda groups, gone, fresh: False)
    _, left, said = _plan(0.45)
    assert left <= 0.45 and _measured(said) == 6
    assert sum(doing.startswith("fitting") for doing in said) <= 3


def test_what_is_left_stays_round_when_a_group_is_small_already() -> None:
    left = [8 - n for n in counts_of(8, rounding=8, multiple=1, most=0.9, whole=16)]
    assert left == [8]
    assert [16 - n for n in counts_of(16, rounding=4, multiple=1, most=0.5, whole=24)] == [16, 12]


def _seeing(said: list[str]) -> bool:
    return any(doing.startswith("seeing") for doing in said)


def test_what_layers_make_up_for_is_looked_at_once_and_only_where_they_will_be_fitted() -> None:
    for value, options, wanted in ((0.75, {}, 6), (0.45, {}, 6), (0.75, {"recover": "bias"}, 0)):
        said = _plan(value, **options)[2]
        assert _seeing(said) == (wanted > 0)
        assert sum(doing.startswith("seeing") for doing in said) <= wanted


def test_groups_whose_loss_will_be_made_up_for_give_more(monkeypatch) -> None:
    plain = _plan(0.75)[0].removal
    names = [name for name in plain if len(plain[name]) < 12]
    name = names[0]
    monkeypatch.setattr(steps, "prospects", lambda *args, **options: {name: 1e-3})
    assert len(_plan(0.75)[0].removal[name]) > len(plain[name])
