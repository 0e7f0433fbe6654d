"""From a model and data to a smaller model: groups, scores, plan, removal, proof, recovery."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.parity import parity
from onnxopt.errors import BadInput, ParityFailed
from onnxopt.passes import shapes
from onnxopt.prune import costs
from onnxopt.prune.align import KIND, align
from onnxopt.prune.apply import check, remove
from onnxopt.prune.costs import Costs, Weigh, prunable
from onnxopt.prune.groups import find_groups
from onnxopt.prune.measure import menus
from onnxopt.prune.oracle import zeroed
from onnxopt.prune.plan import PrunePlan, Target, choose, nothing_left, planned, why_frozen
from onnxopt.prune.products import Product, products, separate
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.score import WITH_DATA, Gradients, orders
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import Covariance, each_covariance

Say = Callable[[float, str], None]

RECOVERIES = ("none", "bias", "least-squares", "distill")
"""What is done to win accuracy back; each holds those before it."""
NORMALIZATIONS = ("measured", "global", "uniform")
"""How groups are compared: by the divergence measured when each is cut alone, by their scores over
the mean score of the group, or not at all: every group gives the same share."""
_FITTING = ("least-squares", "distill")
_MOST_AT_ONCE = 0.7
"""The share that one step of pruning leaves at least."""
_SAME = 1e-8
"""Noise over signal, or divergence, that is put down to rounding."""
_TRIALS = 40
_MOST_TRIALS = 256
_LIGHT = 2e8
"""Multiply-accumulates below which a run is cheap enough for more trials."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user asked for.

    `rounding` is what the channels left are a multiple of (None: see counts_of), `caps` the largest
    share that groups may give by a pattern of their names, `keep` are patterns of groups that stay
    whole.
    """

    target: Target
    score: str = "reconstruction"
    recover: str = "least-squares"
    normalize: str = "measured"
    rounding: int | None = None
    caps: Mapping[str, float] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 0

    def cap(self, group: str) -> float:
        """The largest share of its channels that a group may give."""
        fitting = [cap for name, cap in self.caps.items() if fnmatch.fnmatchcase(group, name)]
        return fitting[-1] if fitting else 0.9


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is to be pruned, with what is known of it."""

    model: ir.Model
    groups: tuple[Group, ...]
    products: Mapping[str, Product]

    @classmethod
    def of(cls, model: ir.Model, keep: Sequence[str] = ()) -> Subject:
        """Find the groups of a model, whose shapes are inferred; biases are given one reader each.

        Raises BadInput where `keep` names nothing.
        """
        separate(model)
        groups = kept(find_groups(model), keep)
        return cls(model, groups, products(model, groups))


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned model, and how far it is from the original on the samples kept apart, by stage."""

    model: ir.Model
    divergences: Mapping[str, float]


def kept(groups: Sequence[Group], keep: Sequence[str]) -> tuple[Group, ...]:
    """The groups, those frozen whose name, or a node or constant in it, fits a pattern of `keep`.

    Raises BadInput for a pattern that fits nothing.
    """
    found = list(groups)
    for pattern in keep:
        hit = False
        for index, group in enumerate(found):
            names = [group.name, *(w.node for w in group.writers), *(s.value for s in group.slots)]
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                hit = True
                if not group.frozen:
                    found[index] = replace(group, frozen="you asked to keep them")
        if not hit:
            near = difflib.get_close_matches(pattern, [group.name for group in groups], 1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise BadInput(
                f"there is nothing called {pattern!r} to keep",
                hint=f"{guess}`onnxopt prune --explain` lists the groups",
            )
    return tuple(found)


def moments_of(
    subject: Subject, feeds: Iterable[Feed], *, threads: int = 0, say: Say | None = None
) -> dict[str, Covariance]:
    """Moments of what each product of a model reads, in one go over the data where they fit."""
    names = list(subject.products)
    if not names:
        return {}
    found = each_covariance(subject.model, feeds, names, threads=threads, progress=say)
    return {name: _small(covariance) for name, covariance in found}


def aligned(
    subject: Subject,
    moments: Mapping[str, Covariance],
    proof: Sequence[Feed],
    settings: Settings,
) -> tuple[Subject, dict[str, Covariance]]:
    """The subject with its heads turned so that their last channels matter little, see align.

    Each turn is kept only where the outputs for the samples in `proof` stay what they were.
    """
    if not any(group.kind == KIND and not group.frozen for group in subject.groups):
        return subject, dict(moments)
    trials = Trials(subject.model, proof, threads=settings.threads)
    model, found = align(
        subject.model, subject.groups, subject.products, moments,
        lambda turned: trials.divergence(turned) < _SAME,
    )  # fmt: skip
    return Subject.of(model, settings.keep), found


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
    up to more, or to less where later layers make up for earlier ones.

    Raises BadInput where nothing can be pruned or the target is out of reach.
    """
    nothing_left(subject.groups, subject.model)
    now, known, gone = subject, moments, dict[str, tuple[int, ...]]()
    for goal in _goals(settings, trials):
        if gone and trials is not None:
            ready = absorb(subject.model, subject.products, moments, gone)
            fitted = refine(
                subject.model, remove(ready, subject.groups, gone), subject.products,
                subject.groups, gone, calibration, trials, threads=settings.threads, say=say,
            )  # fmt: skip
            shapes.infer(fitted)
            now = Subject.of(fitted, settings.keep)
            if not follows(subject.groups, gone, now.groups):
                now, known, gone, goal = subject, moments, {}, settings.target.value
            else:
                known = moments_of(now, calibration, threads=settings.threads, say=say)
        price_left = _Left(price, {name: len(channels) for name, channels in gone.items()})
        step = _step(
            now, known, trials, settings, price_left, goal / price_left.share,
            sizes={group.name: group.size for group in subject.groups},
            gradients=gradients, say=say,
        )  # fmt: skip
        gone = together(subject.groups, gone, step)
        if goal == settings.target.value:
            break
    return planned(subject.groups, gone, settings.target, settings.score)


def _goals(settings: Settings, trials: Trials | None) -> list[float]:
    """What is to be left after each step, the target last."""
    target = settings.target.value
    able = settings.score == "reconstruction" and settings.recover in _FITTING
    if trials is None or not able or not _has_price(settings) or settings.normalize != "measured":
        return [target]
    count = max(1, math.ceil(math.log(target) / math.log(_MOST_AT_ONCE) - 1e-9))
    return [*(target ** (number / count) for number in range(1, count)), target]


def _step(
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
) -> dict[str, tuple[int, ...]]:
    """The channels to remove of the model as it is, so that the share `goal` of its cost is left.

    Raises BadInput where the settings' target is out of reach.
    """
    found = orders(
        subject.model, subject.groups, subject.products, moments,
        method=settings.score, seed=settings.seed, gradients=gradients,
    )  # fmt: skip
    measured = trials if settings.normalize == "measured" and _has_price(settings) else None
    offers = menus(
        subject.model, subject.groups, found, subject.products, moments, measured,
        rounding=settings.rounding, caps=settings.cap, sizes=sizes, say=say,
    )  # fmt: skip
    uniform, frozen = settings.normalize == "uniform", why_frozen(subject.groups)
    last = replace(settings.target, value=settings.target.value / price.share)
    removal = choose(offers, found, last, price, uniform=uniform, frozen=frozen)
    if goal > last.value * (1 + 1e-9):
        aim = replace(last, value=goal)
        removal = choose(offers, found, aim, price, uniform=uniform, frozen=frozen)
    return removal


@dataclass(frozen=True, slots=True)
class _Left:
    """What a model costs from which some channels of each group are gone already."""

    whole: Costs
    gone: Mapping[str, int]

    @property
    def share(self) -> float:
        """How much of the whole cost is left."""
        return self({}) / self.whole.total

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


def carry_out(
    subject: Subject,
    removal: Removal,
    moments: Mapping[str, Covariance],
    calibration: Iterable[Feed],
    trials: Trials | None,
    settings: Settings,
    *,
    proof: Sequence[Feed] | None = None,
    say: Say | None = None,
) -> Pruned:
    """Remove the channels, prove that nothing else went, win back what can be won.

    Each step of the recovery is kept only where it brings the outputs nearer to the original's.

    Raises:
        BadInput: The removal does not fit the groups.
        ParityFailed: The smaller model gives other outputs than the original without the channels.
    """
    check(subject.groups, removal)
    bare = remove(subject.model, subject.groups, removal)
    prove(subject, removal, bare, proof, threads=settings.threads)
    stages: list[tuple[str, ir.Model]] = [("removed", bare)]
    if settings.recover != "none" and moments:
        squares = settings.recover != "bias"
        ready = absorb(subject.model, subject.products, moments, removal, least_squares=squares)
        stages.append((settings.recover, remove(ready, subject.groups, removal)))
        if squares and trials is not None:
            refined = refine(
                subject.model, stages[-1][1], subject.products, subject.groups, removal,
                calibration, trials, threads=settings.threads, say=say,
            )  # fmt: skip
            stages = [*stages[:-1], ("least squares", stages[-1][1]), ("in sequence", refined)]
    if trials is None:
        return Pruned(stages[-1][1], {})
    divergences = {name: trials.divergence(model) for name, model in stages}
    best = min(stages, key=lambda stage: divergences[stage[0]])
    return Pruned(best[1], divergences)


def prove(
    subject: Subject,
    removal: Removal,
    pruned: ir.Model,
    feeds: Sequence[Feed] | None,
    *,
    threads: int = 0,
) -> None:
    """Raise ParityFailed unless `pruned` is the original with the channels held at zero."""
    wanted = zeroed(subject.model, subject.groups, removal)
    found = parity(wanted, pruned, feeds, threads=threads)
    if not found.passed:
        worst = next(output for output in found.outputs if not output.passed)
        raise ParityFailed(
            f"the output {worst.name!r} is not that of the original without the channels: "
            f"{worst.reason}",
            hint="keep the groups in question with --keep, and please report this",
        )


def price_of(subject: Subject, target: Target, macs: Weigh, seconds: Weigh | None = None) -> Costs:
    """What the target counts, as a function of the channels that go."""
    if target.kind == "params":
        return costs.parameters(subject.model, subject.groups)
    weigh = seconds if target.kind == "latency" and seconds is not None else macs
    return costs.by_node(subject.model, subject.groups, weigh)


def trial_count(macs: float) -> int:
    """How many samples to measure divergences on."""
    return _TRIALS if macs > _LIGHT else _MOST_TRIALS


def needs_data(settings: Settings) -> bool:
    """Whether the score or the recovery looks at data."""
    return settings.score in WITH_DATA or settings.recover != "none"


def _has_price(settings: Settings) -> bool:
    return settings.target.kind in ("macs", "params", "latency")


def _small(covariance: Covariance) -> Covariance:
    return replace(covariance, second=covariance.second.astype("float32"))
