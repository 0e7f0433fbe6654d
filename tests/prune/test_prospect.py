"""How much of what a cut loses the layers behind it make up for."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import drawn

from onnxopt.prune import prospect, search
from onnxopt.prune.allocate import Menu
from onnxopt.prune.apply import remove
from onnxopt.prune.measure import menus
from onnxopt.prune.recover import absorb
from onnxopt.prune.score import orders
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Trials


def _residual(blocks: int):
    """Blocks that add to a stream of 16 channels, and a head that reads the stream's mean."""
    text = "g (float[N,4,8,8] x) => (float[N,10] y) { s0 = Conv<pads=[1,1,1,1]>(x, w, b)"
    random = np.random.default_rng(0)

    def weight(*shape: int):
        return random.normal(scale=np.prod(shape[1:]) ** -0.5, size=shape).astype(np.float32)

    weights = {"w": weight(16, 4, 3, 3), "b": weight(16)}
    for i in range(blocks):
        text += f"""
            a{i} = Conv<pads=[1,1,1,1]>(s{i}, u{i}, c{i})
            r{i} = Relu(a{i})
            d{i} = Conv<pads=[1,1,1,1]>(r{i}, v{i}, e{i})
            t{i} = Add(s{i}, d{i})
            s{i + 1} = Relu(t{i})"""
        weights |= {f"u{i}": weight(16, 16, 3, 3), f"c{i}": weight(16)}
        weights |= {f"v{i}": weight(16, 16, 3, 3), f"e{i}": weight(16)}
    text += f"m = GlobalAveragePool(s{blocks}) f = Flatten(m) y = Gemm(f, h, k) }}"
    model = drawn(text, **weights, h=weight(10, 16).T, k=weight(10))
    mixing = random.normal(size=(4, 4))
    made = random.normal(size=(130, 4, 8, 8))
    feeds = [{"x": np.einsum("ij,jhw->ihw", mixing, one)[None].astype(np.float32)} for one in made]
    subject = search.Subject.of(model)
    return subject, feeds[:100], feeds[100:]


class _Case:
    """Four groups inside of the blocks, what they may give, and a cut of half of each."""

    def __init__(self) -> None:
        self.subject, self.feeds, held = _residual(4)
        subject = self.subject
        self.moments = search.moments_of(subject, self.feeds, threads=1)
        self.trials = Trials(subject.model, held, threads=1)
        order = orders(subject.model, subject.groups, subject.products, self.moments)
        offers = menus(
            subject.model, subject.groups, order, subject.products, self.moments, self.trials,
            rounding=4, caps=lambda name: 0.75,
        )  # fmt: skip
        inside = {g.name for g in subject.groups if any(c.value[0] == "a" for c in g.carriers)}
        self.offers = [menu for menu in offers if menu.group in inside]
        self.names = [menu.group for menu in self.offers]
        self.removal = {name: tuple(sorted(order[name].channels[:8])) for name in self.names}

    def prospects(self, removal, other=None) -> dict[str, float]:
        """Where `other` is chosen once shares are known; that is a smaller cut by default."""
        subject = self.subject
        smaller = {name: channels[:4] for name, channels in removal.items()}

        def choose(shares):
            plain = all(share == 1 for share in shares.values())
            return removal if plain else smaller if other is None else other

        return prospect.prospects(
            subject.model, subject.groups, subject.products, self.moments, self.offers, choose,
            self.feeds, self.trials, threads=1,
        )  # fmt: skip

    def lost(self, name: str) -> float:
        """What the offers say of the cut."""
        menu = next(menu for menu in self.offers if menu.group == name)
        return menu.losses[menu.counts.index(8)]

    def left(self, name: str) -> float:
        """What is left of it after a fit."""
        subject, cut = self.subject, {name: self.removal[name]}
        ready = absorb(subject.model, subject.products, self.moments, cut)
        fitted = refine(
            subject.model, remove(ready, subject.groups, cut), subject.products, subject.groups,
            cut, self.feeds, self.trials, most=prospect.VECTORS // (8 * 8), threads=1,
        )  # fmt: skip
        return self.trials.divergence(fitted)


@pytest.fixture(scope="module")
def case() -> _Case:
    return _Case()


def test_a_share_is_what_a_fit_of_the_layers_behind_leaves(case) -> None:
    assert len(case.names) == 4
    lost, left = (np.array([of(name) for name in case.names]) for of in (case.lost, case.left))
    wanted = (left + 0.1 * lost.mean()) / (lost + 0.1 * lost.mean())
    assert list(case.prospects(case.removal).values()) == pytest.approx(wanted.tolist(), rel=1e-3)
    assert wanted.min() < 0.95


def test_parts_that_are_not_cut_take_after_their_neighbours(case) -> None:
    first, second, third, last = case.names
    found = case.prospects({name: case.removal[name] for name in (first, last)})
    step = (found[last] - found[first]) / 3
    assert step != 0
    assert found[second] == pytest.approx(found[first] + step)
    assert found[third] == pytest.approx(found[first] + 2 * step)


def test_where_nothing_goes_all_losses_count_in_full(case) -> None:
    assert case.prospects({}) == dict.fromkeys(case.names, 1.0)


def test_shares_that_lead_to_no_better_choice_are_not_taken(case) -> None:
    full = dict.fromkeys(case.names, 1.0)
    random = np.random.default_rng(0)
    larger = {name: tuple(sorted(random.permutation(16)[:12].tolist())) for name in case.names}
    assert case.prospects(case.removal, larger) == full
    assert case.prospects(case.removal, case.removal) == full
    assert case.prospects(case.removal) != full


def test_offers_are_weighed_by_group() -> None:
    offers = [Menu("a", (0, 4), (0.0, 2.0)), Menu("b", (0, 4), (0.0, 3.0))]
    weighed = prospect.weighed(offers, {"a": 0.25})
    assert [menu.losses for menu in weighed] == [(0.0, 0.5), (0.0, 3.0)]
    assert [menu.counts for menu in weighed] == [(0, 4), (0, 4)]
