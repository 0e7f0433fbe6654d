"""The steps of `prune`: optimize, plan, remove, prove, recover, teach, time, report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.api_call import Call
from onnxopt.bench.cost import Cost, cost_at, macs_by_node, sizes_in
from onnxopt.bench.race import race
from onnxopt.bench.timing import Timing
from onnxopt.check.feeds import synthesize
from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Score
from onnxopt.distill.door import require_torch
from onnxopt.distill.settings import HELD
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.prune import request, search, steps
from onnxopt.prune.explain import Explanation
from onnxopt.prune.explain import explain as explain_groups
from onnxopt.prune.matrices import named
from onnxopt.prune.mirror import with_mirrored
from onnxopt.prune.plan import PrunePlan, nothing_left
from onnxopt.prune.trial import Trials
from onnxopt.prune.unpad import Unpadded
from onnxopt.quantize.samples import Samples, spread
from onnxopt.quantize.spool import Spool
from onnxopt.report.distillation import DistillReport
from onnxopt.report.pruning import PruneReport
from onnxopt.report.record import Versions
from onnxopt.report.stages import Stage, stage_of
from onnxopt.runtime import types
from onnxopt.runtime.profile import node_times

if TYPE_CHECKING:
    from onnxopt.api_distill import DistillResult

_TIMED = 2
_PROOFS = 2


@dataclass(frozen=True, slots=True)
class Made:
    """A pruned model with what was found on the way."""

    model: ir.Model
    plan: PrunePlan
    divergences: Mapping[str, float]
    explanation: Explanation
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What the steps of one call share.

    `first` are keywords of `optimize`, and `given` is a plan to carry out.

    Raises MissingExtra where torch is needed and is not there.
    """

    call: Call
    settings: search.Settings
    first: Mapping[str, Any]
    given: PrunePlan | None
    plan_only: bool

    def __post_init__(self) -> None:
        if self.settings.recover == "distill" or self.settings.score == "taylor":
            require_torch()

    def optimized(self) -> api.Result:
        """The optimized model, normalizations whole where their scales are looked at."""
        chosen = dict(self.first)
        if self.settings.score == "batchnorm":
            chosen["disable"] = (*chosen.get("disable", ()), *request.NORM_FOLDS)
        return self.call.optimized(**chosen)

    def made(self, model: ir.Model, split: Samples | None) -> Made:
        """The optimized model pruned and recovered, with the samples kept apart never learned."""
        made = self._pruned(model, split)
        if self.plan_only:
            return made
        if self.settings.score == "batchnorm":
            call = self.call
            folded = api.optimize(made.model, bench=False, seed=call.seed, threads=call.threads)
            made = replace(made, model=folded.model)
        if self.settings.recover == "distill":
            taught = self._taught(model, made.model, split)
            made = replace(made, model=taught.model, notes=(_course(taught.report),))
        return made

    def _pruned(self, model: ir.Model, split: Samples | None) -> Made:
        settings, say = self.settings, self.call.say
        subject = subject_of(model, settings.keep)
        macs = functools.partial(macs_by_node, dims=self._dims(model, split))
        weights = macs(subject.model)
        explanation = explain_groups(subject.model, subject.groups, weights)
        nothing_left(subject.groups, subject.model)
        moments, trials = {}, None
        calibration: Iterable[Feed] = ()
        if split is not None and search.needs_data(settings):
            count = search.trial_count(sum(weights.values()))
            held = Spool(Unpadded.of(spread(split.held, count), model))
            calibration = Unpadded.of(split.calibration, model)
            calibration = with_mirrored(
                calibration, split.held, subject.model, threads=settings.threads
            )
            trials = Trials(subject.model, held, threads=settings.threads)
            moments = search.moments_of(subject, calibration, threads=settings.threads, say=say)
            subject, moments = search.aligned(subject, moments, held[:_PROOFS], settings)
        if self.given is None:
            price = search.price_of(subject, settings.target, macs, self._seconds(split))
            plan = steps.make_plan(
                subject, moments, trials, settings, price,
                calibration=calibration,
                gradients=self._slopes(subject, split), say=say,
            )  # fmt: skip
        else:
            plan = self.given.fitting(subject.groups)
        if self.plan_only:
            return Made(model, plan, {}, explanation)
        pruned = search.carry_out(
            subject, plan.removal, moments, calibration, trials, settings,
            rounds=search.rounds_of(sum(weights.values())),
            proof=None if split is None else split.held[:1], say=say,
        )  # fmt: skip
        shapes.restore(pruned.model)
        return Made(pruned.model, plan, pruned.divergences, explanation)

    def _taught(self, teacher: ir.Model, student: ir.Model, split: Samples | None) -> DistillResult:
        from onnxopt.api_distill import distill

        data = None if split is None else split.calibration
        # What is kept apart to measure on must not be learned. But the best weights are chosen by
        # it: the least squares fit the other samples, which say little of how good they are.
        return distill(
            teacher, student, data=data, held=HELD if split is None else split.held,
            threads=self.call.threads, seed=self.call.seed, progress=self.call.say,
        )  # fmt: skip

    def _slopes(self, subject: search.Subject, split: Samples | None) -> Any:
        if self.settings.score != "taylor" or split is None:
            return None
        from onnxopt.distill.gradients import slopes

        return slopes(subject.model, split.calibration, threads=self.settings.threads)

    def _dims(self, model: ir.Model, split: Samples | None) -> dict[str, int]:
        """The sizes to count multiply-accumulates at: those of a sample, where there are any."""
        found = {} if split is None else sizes_in(model, split.held[0])
        return found | dict(self.call.dims or {})

    def _seconds(self, split: Samples | None) -> Callable[..., Mapping[str, float]] | None:
        if self.settings.target.kind != "latency":
            return None
        if split is None:
            raise BadInput(
                "--latency needs inputs to time, and there is no data", hint="give some with --data"
            )
        feeds = split.held[:1]

        def seconds(model: ir.Model) -> Mapping[str, float]:
            self.call.say(0.0, "timing layers")
            (times,) = node_times([model], feeds, threads=self.settings.threads, rounds=2)
            return {each.name: each.seconds for each in times}

        return seconds

    def report(
        self, fresh: api.Result, made: Made, split: Samples | None, *, bench: bool
    ) -> PruneReport:
        """Measure what came out."""
        call = self.call
        dims = self._dims(fresh.model, split)
        first, before, after = (
            cost_at(each, dims=dims) for each in (io.load(call.model), fresh.model, made.model)
        )
        score = call.score(fresh.model, made.model, split)
        timing = self._timing(fresh.model, made.model, split) if bench else None
        return PruneReport(
            source=call.source,
            output=call.target,
            target=made.plan.target,
            score_name=made.plan.score,
            recover=self.settings.recover,
            groups=made.plan.groups,
            explanation=made.explanation,
            divergences=made.divergences,
            score=score,
            max_drop=call.data.max_drop,
            stages=_stages(
                replace(fresh.report.before, macs=first.macs), before, after, timing, score
            ),
            timing=timing,
            versions=Versions.here(),
            notes=(*(() if split is None else (split.note,)), *made.notes),
            seconds=call.seconds,
        )

    def _timing(self, before: ir.Model, after: ir.Model, split: Samples | None) -> Timing:
        return race(
            [before, after],
            synthesize(before, count=1) if split is None else split.held[:_TIMED],
            names=("optimized", "pruned"),
            threads=self.call.threads,
            progress=self.call.say,
        ).timing


def _course(report: DistillReport) -> str:
    """What distillation did, on a line."""
    first, best = report.curve[0].held, report.best.held
    text = f"{report.steps:,} steps of distillation on {report.training_samples:,} samples"
    if not report.improved:
        return f"{text} brought nothing better on the runs kept apart: the weights are as before"
    return (
        f"{text}: the loss on the runs kept apart, by which the best weights were chosen, fell from"
        f" {first:.4g} to {best:.4g}"
    )


def subject_of(model: ir.Model, keep: Sequence[str]) -> search.Subject:
    """What there is to prune in a model, which stays as it is. Raises BadInput, see search.kept."""
    # Products are measured by the names of their nodes, which not every exporter gives.
    copy = named(model)
    shapes.infer(copy)
    types.complete(copy)
    return search.Subject.of(copy, keep)


def _stages(
    first: Cost, before: Cost, after: Cost, timing: Timing | None, score: Score | None
) -> tuple[Stage, ...]:
    reference, candidate = (None, None) if score is None else (score.reference, score.candidate)
    return (
        stage_of("original", first),
        stage_of("optimized", before, timing=timing, side="optimized", score=reference),
        stage_of("pruned", after, timing=timing, side="pruned", score=candidate),
    )
