"""`prune` as users call it: optimizes, plans, removes, proves, recovers, times, writes, reports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.bench.cost import Cost, cost_at, macs_by_node
from onnxopt.bench.race import race
from onnxopt.check.feeds import synthesize
from onnxopt.check.metric import Score
from onnxopt.check.metric import metric as metric_of
from onnxopt.distill.door import require_torch
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.prune import request, search
from onnxopt.prune.explain import Explanation
from onnxopt.prune.explain import explain as explain_groups
from onnxopt.prune.plan import PrunePlan, nothing_left, read_plan
from onnxopt.prune.trial import Trials
from onnxopt.quantize import samples
from onnxopt.report.pruning import PruneReport
from onnxopt.report.record import Versions
from onnxopt.report.stages import Stage, stage_of
from onnxopt.runtime.profile import node_times
from onnxopt.runtime.sessions import Session

Progress: TypeAlias = "Callable[[float, str], None]"

_TIMED = 2


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The pruned model, the record of how it came about, and the plan behind it.

    With `plan_only` the model is the optimized one, nothing removed.
    """

    model: ir.Model
    report: PruneReport
    plan: PrunePlan

    def save(self, path: str | os.PathLike[str], *, external: io.External = "keep") -> Path:
        """Write the model (see io.save)."""
        return io.save(self.model, path, external=external)


def prune(
    model: io.Source,
    *,
    data: Any = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    ratio: float | None = None,
    threshold: float | None = None,
    score: str | None = None,
    recover: str | None = None,
    normalize: str = "measured",
    keep: Sequence[str] = (),
    rounding: int = 8,
    max_ratio: float | Mapping[str, float] = 0.9,
    plan: PrunePlan | str | os.PathLike[str] | None = None,
    plan_only: bool = False,
    metric: Any = "auto",
    labels: Any = None,
    max_drop: float | None = None,
    bench: bool = True,
    batch: int = 1,
    preprocess: str | None = None,
    optimize: Mapping[str, Any] | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int = 0,
    output: str | os.PathLike[str] | None = None,
    external: io.External = "keep",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Remove whole channels, heads and hidden units, and win the accuracy back without labels.

    The model is optimized first. That nothing but the planned channels went is proven: the original
    with these channels held at zero gives the same outputs.

    Args:
        model: A float model; it is never changed.
        data: Samples of real inputs without labels (see check.data.read_data). Each fifth run is
            kept apart to measure on.
        macs: The share of the multiply-accumulates to keep; this or one of the next four is the
            target.
        params: The share of the parameters to keep.
        latency: The share of the time of a run to keep, from measured times of the nodes.
        ratio: The share of each group's channels to remove.
        threshold: Channels that score less than this are removed.
        score: How channels are ranked, see prune.score.scores; "reconstruction" with data, else
            "magnitude".
        recover: "least-squares" (the default with data), "bias", "distill" (needs torch), or
            "none".
        normalize: How layers are compared, see prune.search.NORMALIZATIONS.
        keep: Groups, nodes or constants whose channels stay; patterns such as `*head*` are fine.
        rounding: What is left of a group is a multiple of this.
        max_ratio: The largest share that a group may give, or such shares by pattern of its name.
        plan: A plan, or the path of one, to carry out as it is.
        plan_only: Stop when the plan is made.
        metric: How the loss that is reported is measured, see check.metric.metric.
        labels: Class indices of all samples, for the metric "top1".
        max_drop: How much may be lost (see check.metric.Score); without it anything.
        bench: Time the optimized and the pruned model.
        batch: Samples a run of `data`.
        preprocess: How pictures in `data` become inputs, see check.images.Preprocess.
        optimize: How the model is optimized first: further keywords of `onnxopt.optimize`.
        seed: Seed of what is made up.
        input_shapes: New shapes of inputs, by name.
        dims: Sizes of symbolic dims, by name.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        output: Where to write the result; nothing is written where `report.passed` is False.
        external: Where weights go when `output` is written (see io.save).
        overwrite: Allow `output` to be the input file.
        progress: Told how far it is.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option, the plan or
            the output is not usable, or the target is out of reach.
    """
    started = time.perf_counter()
    given = read_plan(plan)
    settings = request.settings(
        data, given,
        {"macs": macs, "params": params, "latency": latency, "ratio": ratio,
         "threshold": threshold},
        score=score, recover=recover, normalize=normalize, rounding=rounding, max_ratio=max_ratio,
        keep=keep, seed=seed, threads=threads,
    )  # fmt: skip
    run = _Run(
        settings, progress or (lambda share, doing: None), metric_of(metric, labels), dims or {}
    )
    if settings.recover == "distill" or settings.score == "taylor":
        require_torch()
    original = io.load(model)
    if output is not None:
        io.check_target(original, output, overwrite=overwrite)
    first = dict(optimize or {})
    if settings.score == "batchnorm":
        first["disable"] = (*first.get("disable", ()), *request.NORM_FOLDS)
    fresh = api.optimize(
        model, bench=False, seed=seed, input_shapes=input_shapes, dims=dims, threads=threads,
        progress=lambda doing: run.say(0.0, doing), **first,
    )  # fmt: skip
    split = None if data is None else samples.split(
        data, fresh.model, batch=batch, preprocess=preprocess, labels=labels, seed=seed
    )  # fmt: skip
    made = run.prune(fresh.model, split, given, plan_only=plan_only)
    if settings.score == "batchnorm" and not plan_only:
        folded = api.optimize(made.model, bench=False, seed=seed, threads=threads)
        made = replace(made, model=folded.model)
    if settings.recover == "distill" and not plan_only:
        made = replace(made, model=_distilled(fresh.model, made.model, split, run))
    report = run.report(
        api.name_of(model), "<memory>" if output is None else os.fspath(output), fresh, made, split,
        bench=bench and not plan_only, max_drop=max_drop, started=started,
    )  # fmt: skip
    if output is not None and not plan_only and report.passed:
        io.save(made.model, output, external=external, overwrite=overwrite)
    return PruneResult(made.model, report, made.plan)


def explain(
    model: io.Source,
    *,
    keep: Sequence[str] = (),
    freeze_inputs: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Explanation:
    """What of a model can be pruned, what can't and why; the model is optimized first.

    Raises OnnxoptError, see prune.
    """
    fresh = api.optimize(
        model, bench=False, check=False, input_shapes=input_shapes, dims=dims,
        freeze_inputs=freeze_inputs,
    )  # fmt: skip
    subject = _subject(fresh.model, keep)
    return explain_groups(subject.model, subject.groups, macs_by_node(subject.model, dims=dims))


@dataclass(frozen=True, slots=True)
class _Made:
    """A pruned model with what was found on the way."""

    model: ir.Model
    plan: PrunePlan
    divergences: Mapping[str, float]
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class _Run:
    """What the steps of one call share."""

    settings: search.Settings
    say: Progress
    metric: Any
    dims: Mapping[str, int]

    def prune(
        self,
        model: ir.Model,
        split: samples.Samples | None,
        given: PrunePlan | None,
        *,
        plan_only: bool,
    ) -> _Made:
        """Plan and carry out."""
        settings = self.settings
        subject = _subject(model, settings.keep)
        weights = macs_by_node(subject.model, dims=self.dims)
        explanation = explain_groups(subject.model, subject.groups, weights)
        nothing_left(subject.groups, subject.model)
        moments, trials = {}, None
        if split is not None and search.needs_data(settings):
            held = split.held[: search.trial_count(sum(weights.values()))]
            trials = Trials(subject.model, held, threads=settings.threads)
            moments = search.moments_of(
                subject, split.calibration, threads=settings.threads, say=self.say
            )
        if given is None:
            price = search.price_of(subject, settings.target, self._macs, self._seconds(split))
            plan = search.make_plan(
                subject, moments, trials, settings, price,
                gradients=self._slopes(subject, split), say=self.say,
            )  # fmt: skip
        else:
            plan = given.fitting(subject.groups)
        if plan_only:
            return _Made(model, plan, {}, explanation)
        pruned = search.carry_out(
            subject, plan.removal, moments, () if split is None else split.calibration, trials,
            settings, proof=None if split is None else split.held[:1], say=self.say,
        )  # fmt: skip
        result = pruned.model
        shapes.restore(result)
        return _Made(result, plan, pruned.divergences, explanation)

    def _slopes(self, subject: search.Subject, split: samples.Samples | None) -> Any:
        if self.settings.score != "taylor" or split is None:
            return None
        from onnxopt.distill.gradients import slopes

        return slopes(subject.model, split.calibration, threads=self.settings.threads)

    def _macs(self, model: ir.Model) -> Mapping[str, float]:
        return macs_by_node(model, dims=self.dims)

    def _seconds(self, split: samples.Samples | None) -> Callable[..., Mapping[str, float]] | None:
        if self.settings.target.kind != "latency":
            return None
        if split is None:
            raise BadInput(
                "--latency needs inputs to time, and there is no data", hint="give some with --data"
            )
        feeds = split.held[:1]

        def seconds(model: ir.Model) -> Mapping[str, float]:
            self.say(0.0, "timing layers")
            (times,) = node_times([model], feeds, threads=self.settings.threads, rounds=2)
            return {each.name: each.seconds for each in times}

        return seconds

    def report(
        self,
        source: str,
        output: str,
        fresh: api.Result,
        made: _Made,
        split: samples.Samples | None,
        *,
        bench: bool,
        max_drop: float | None,
        started: float,
    ) -> PruneReport:
        """Measure what came out."""
        threads = self.settings.threads
        before, after = (cost_at(each, dims=self.dims) for each in (fresh.model, made.model))
        score, timing = None, None
        if split is not None:
            self.say(0.95, "measuring on the samples kept apart")
            score = _score(self.metric, fresh.model, made.model, split, threads)
        if bench:
            feeds = synthesize(fresh.model, count=1) if split is None else split.held[:_TIMED]
            timing = race(
                [fresh.model, made.model], feeds,
                names=("optimized", "pruned"), threads=threads, progress=self.say,
            ).timing  # fmt: skip
        return PruneReport(
            source=source,
            output=output,
            target=made.plan.target,
            score_name=made.plan.score,
            recover=self.settings.recover,
            groups=made.plan.groups,
            explanation=made.explanation,
            divergences=made.divergences,
            score=score,
            max_drop=max_drop,
            stages=_stages(fresh.report.before, before, after, timing, score),
            timing=timing,
            versions=Versions.here(),
            notes=() if split is None else (split.note,),
            seconds=time.perf_counter() - started,
        )


def _stages(
    first: Cost, before: Cost, after: Cost, timing: Any, score: Score | None
) -> tuple[Stage, ...]:
    reference, candidate = (None, None) if score is None else (score.reference, score.candidate)
    return (
        stage_of("original", first),
        stage_of("optimized", before, timing=timing, side="optimized", score=reference),
        stage_of("pruned", after, timing=timing, side="pruned", score=candidate),
    )


def _subject(model: ir.Model, keep: Sequence[str]) -> search.Subject:
    copy = model.clone()
    shapes.infer(copy)
    return search.Subject.of(copy, keep)


def _score(
    metric: Any, reference: ir.Model, candidate: ir.Model, split: samples.Samples, threads: int
) -> Score:
    found = []
    for model in (reference, candidate):
        session = Session.open(model, optimize=True, threads=threads)
        names = [each.name for each in session.outputs]
        found.append([dict(zip(names, session.run(feed), strict=True)) for feed in split.held])
    named = replace(metric, labels=split.labels) if metric.name == "top1" else metric
    score: Score = named.score(found[0], found[1], split.held)
    return score


def _distilled(
    teacher: ir.Model, student: ir.Model, split: samples.Samples | None, run: _Run
) -> ir.Model:
    from onnxopt.api_distill import distill

    settings = run.settings
    # What is kept apart to measure on must not be learned.
    return distill(
        teacher, student, data=None if split is None else split.calibration,
        threads=settings.threads, seed=settings.seed, progress=run.say,
    ).model  # fmt: skip
