"""What pruning starts from and ends with: groups, moments; removal, proof, recovery."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.parity import parity
from onnxopt.errors import BadInput, ParityFailed
from onnxopt.prune import costs
from onnxopt.prune.align import KIND, align
from onnxopt.prune.apply import check, remove
from onnxopt.prune.costs import Costs, Weigh
from onnxopt.prune.groups import find_groups
from onnxopt.prune.oracle import zeroed
from onnxopt.prune.plan import Target
from onnxopt.prune.products import Product, products, separate
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.recover import absorb
from onnxopt.prune.score import WITH_DATA
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import Covariance, each_covariance

Say = Callable[[float, str], None]

RECOVERIES = ("none", "bias", "least-squares", "distill")
"""What is done to win accuracy back; each holds those before it."""
NORMALIZATIONS = ("measured", "global", "uniform")
"""How groups are compared: by the divergence measured when each is cut alone, by their scores over
the mean score of the group, or not at all: every group gives the same share."""
_SAME = 1e-8
"""Noise over signal, or divergence, that is put down to rounding."""
_TRIALS = 40
_MOST_TRIALS = 256
_ROUNDS, _MOST_ROUNDS = 1, 3
_LIGHT = 2.5e8
"""Multiply-accumulates below which a run is cheap enough for more trials and more rounds."""


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


def carry_out(
    subject: Subject,
    removal: Removal,
    moments: Mapping[str, Covariance],
    calibration: Iterable[Feed],
    trials: Trials | None,
    settings: Settings,
    *,
    rounds: int = 1,
    proof: Sequence[Feed] | None = None,
    say: Say | None = None,
) -> Pruned:
    """Remove the channels, prove that nothing else went, win back what can be won.

    Each step of the recovery is kept only where it brings the outputs nearer to the original's. For
    `rounds` see refine.

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
                calibration, trials, threads=settings.threads, rounds=rounds, say=say,
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
    """What the target counts, as a function of the channels that go.

    Raises BadInput where it counts multiply-accumulates and none are known.
    """
    if target.kind == "params":
        return costs.parameters(subject.model, subject.groups)
    weigh = seconds if target.kind == "latency" and seconds is not None else macs
    found = costs.by_node(subject.model, subject.groups, weigh)
    if target.kind == "macs" and not found.total:
        raise BadInput(
            "the multiply-accumulates of this model can't be told: its inputs are of open size",
            hint="give samples with --data, or sizes with --dim or --input-shape, or use --params",
        )
    return found


def rounds_of(macs: float) -> int:
    """How often to move each product and the one behind it in turn."""
    return _ROUNDS if macs > _LIGHT else _MOST_ROUNDS


def trial_count(macs: float) -> int:
    """How many samples to measure divergences on."""
    return _TRIALS if macs > _LIGHT else _MOST_TRIALS


def needs_data(settings: Settings) -> bool:
    """Whether the score or the recovery looks at data."""
    return settings.score in WITH_DATA or settings.recover != "none"


def _small(covariance: Covariance) -> Covariance:
    return replace(covariance, second=covariance.second.astype("float32"))
