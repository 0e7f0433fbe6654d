"""Chooses what to remove: what each group may give is measured, weighed and taken, in steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxopt.check.inputs import Feed
from onnxopt.passes import shapes
from onnxopt.prune.allocate import Menu
from onnxopt.prune.apply import remove
from onnxopt.prune.costs import Costs, prunable
from onnxopt.prune.fit import Order
from onnxopt.prune.measure import is_within, menus
from onnxopt.prune.plan import PrunePlan, Target, choose, nothing_left, planned, why_frozen
from onnxopt.prune.prospect import prospects, weighed
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.score import Gradients, orders
from onnxopt.prune.search import Settings, Subject, moments_of
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import Covariance
from onnxopt.runtime import types

Say = Callable[[float, str], None]

_FITTING = ("least-squares", "distill")
_MOST_AT_ONCE = 0.7
"""The share that one step of pruning leaves at least."""


def make_plan(
    subject: Subject,
    moments: Mapping[str, Covariance],
    trials: Trials | None,
    settings: Settings,
    price: Costs,
    *,
    calibration: Iterable[Feed] = (),
    gradients: Gradients | None = None,
    say: Say | None = None,
) -> PrunePlan:
    """Choose what to remove.

    Where much is to go, it goes in several steps: what each group is worth is measured anew on the
    model that is left after the last one, fitted to `calibration`. Losses that are small alone add
    up to more, and later layers make up for those of earlier ones, see prospect.

    Raises BadInput where nothing can be pruned or the target is out of reach.
    """
    nothing_left(subject.groups, subject.model)
    now, known, gone = subject, moments, dict[str, tuple[int, ...]]()
    shares: Mapping[str, float] | None = None
    for goal in _goals(settings, trials):
        if gone and trials is not None:
            ready = absorb(subject.model, subject.products, moments, gone)
            fitted = refine(
                subject.model, remove(ready, subject.groups, gone), subject.products,
                subject.groups, gone, calibration, trials, threads=settings.threads, say=say,
            )  # fmt: skip
            shapes.infer(fitted)
            types.complete(fitted)
            now = Subject.of(fitted, settings.keep)
            if not follows(subject.groups, gone, now.groups):
                now, known, gone, goal = subject, moments, {}, settings.target.value
            else:
                known = moments_of(now, calibration, threads=settings.threads, say=say)
        price_left = _Left(price, {name: len(channels) for name, channels in gone.items()})
        step = _Step.of(
            now, known, trials, settings, price_left, goal / price_left.share,
            sizes={group.name: group.size for group in subject.groups},
            gradients=gradients, say=say,
        )  # fmt: skip
        if shares is None and trials is not None and _fits(settings):
            shares = prospects(
                subject.model, subject.groups, subject.products, moments, step.offers,
                step.removal, calibration, trials, threads=settings.threads, say=say,
            )  # fmt: skip
        gone = together(subject.groups, gone, step.removal(shares or {}))
        if goal == settings.target.value:
            break
    return planned(subject.groups, gone, settings.target, settings.score)


def _goals(settings: Settings, trials: Trials | None) -> list[float]:
    """What is to be left after each step, the target last."""
    target = settings.target.value
    if trials is None or not _fits(settings):
        return [target]
    count = max(1, math.ceil(math.log(target) / math.log(_MOST_AT_ONCE) - 1e-9))
    return [*(target ** (number / count) for number in range(1, count)), target]


def _fits(settings: Settings) -> bool:
    """Whether losses are measured, and what is left will be fitted in the end."""
    measured = settings.normalize == "measured" and _has_price(settings)
    return measured and settings.score == "reconstruction" and settings.recover in _FITTING


@dataclass(frozen=True, slots=True)
class _Step:
    """What the groups of a model as it is may give, and how much of its cost is to be left."""

    offers: Sequence[Menu]
    orders: Mapping[str, Order]
    target: Target
    goal: float
    price: _Left
    uniform: bool
    frozen: str

    @classmethod
    def of(
        cls,
        subject: Subject,
        moments: Mapping[str, Covariance],
        trials: Trials | None,
        settings: Settings,
        price: _Left,
        goal: float,
        *,
        sizes: Mapping[str, int],
        gradients: Gradients | None,
        say: Say | None,
    ) -> _Step:
        """Weigh the groups; `goal` is the share of the cost of `subject` that is to be left."""
        found = orders(
            subject.model, subject.groups, subject.products, moments,
            method=settings.score, seed=settings.seed, gradients=gradients,
        )  # fmt: skip
        measured = trials if settings.normalize == "measured" and _has_price(settings) else None
        offers = menus(
            subject.model, subject.groups, found, subject.products, moments, measured,
            rounding=settings.rounding, caps=settings.cap, sizes=sizes, say=say,
        )  # fmt: skip
        last = replace(settings.target, value=settings.target.value / price.share)
        frozen = why_frozen(subject.groups)
        free = [group for group in prunable(subject.groups) if is_within(group, subject.model)]
        if {group.name for group in free} - {menu.group for menu in offers}:
            frozen += "; some stand in a branch that no sample takes"
        uniform = settings.normalize == "uniform"
        return cls(offers, found, last, goal, price, uniform, frozen)

    def removal(self, shares: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
        """The channels to remove where only these shares of the groups' losses count.

        Raises BadInput where the settings' target is out of reach.
        """
        offers = weighed(self.offers, shares)
        removal = self._choose(offers, self.target)
        if self.goal > self.target.value * (1 + 1e-9):
            removal = self._choose(offers, replace(self.target, value=self.goal))
        return removal

    def _choose(self, offers: Sequence[Menu], target: Target) -> dict[str, tuple[int, ...]]:
        return choose(
            offers, self.orders, target, self.price, uniform=self.uniform, frozen=self.frozen
        )


@dataclass(frozen=True, slots=True)
class _Left:
    """What a model costs from which some channels of each group are gone already."""

    whole: Costs
    gone: Mapping[str, int]

    @property
    def share(self) -> float:
        """How much of the whole cost is left."""
        total = self.whole.total
        return self({}) / total if total else 1.0

    def __call__(self, removed: Mapping[str, int]) -> float:
        total = {name: self.gone.get(name, 0) + count for name, count in removed.items()}
        return self.whole({**self.gone, **total})


def follows(groups: Iterable[Group], gone: Removal, fresh: Iterable[Group]) -> bool:
    """Whether the groups found without the channels in `gone` are those from before, but smaller.

    Else the channels of one can't be told from those of the other.
    """
    left = {group.name: group.size - len(gone.get(group.name, ())) for group in groups}
    return all(left.get(group.name) == group.size for group in prunable(fresh))


def together(groups: Iterable[Group], first: Removal, then: Removal) -> dict[str, tuple[int, ...]]:
    """Two removals as one; `then` counts the channels that `first` leaves."""
    found = {}
    for group in groups:
        left = sorted(set(range(group.size)) - set(first.get(group.name, ())))
        gone = {*first.get(group.name, ()), *(left[at] for at in then.get(group.name, ()))}
        if gone:
            found[group.name] = tuple(sorted(gone))
    return found


def _has_price(settings: Settings) -> bool:
    return settings.target.kind in ("macs", "params", "latency")
