"""Static quantization: calibrate, plan, insert, prove, score, race, decide.

What comes out is never slower than the float model and never worse than the budget allows, or it
is the float model.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnx_ir as ir

from onnxopt import ops, registry
from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Metric, Outputs, Score, choose, sqnr_db
from onnxopt.passes import shapes
from onnxopt.quantize.calibrate import collect
from onnxopt.quantize.costs import Costs, estimated_costs, measured_costs, mixed_names
from onnxopt.quantize.plan import check_plan, check_target
from onnxopt.quantize.proof import Proof, prove
from onnxopt.quantize.ready import make_ready
from onnxopt.quantize.records import QuantPlan, Range
from onnxopt.quantize.remarks import left_out, other_grids
from onnxopt.quantize.samples import Samples
from onnxopt.quantize.search import Candidate, Island, Search, put_back, sensitivities
from onnxopt.quantize.subject import PRODUCTS, name_nodes, refuse
from onnxopt.quantize.targets import TARGETS
from onnxopt.quantize.trials import Bench, Trial, settle
from onnxopt.quantize.weights import Statistics
from onnxopt.quantize.workshop import Workshop, only
from onnxopt.runtime import types

Progress: TypeAlias = "Callable[[float, str], None]"
Verdict = Literal["int8", "int4", "fp16", "bf16", "float", "over budget", "planned"]

_LOOKED_AT = 8
"""Samples that sensitivities and layer errors are measured on."""
_TIMED = 1
"""Samples that nodes are timed on."""
_INSIDE = "the products are inside of If, Loop or Scan, where no ranges are observed"
_MARGINS = 500
"""Calibration samples of which it is asked how near they lie to the borders of classes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may choose; `api.quantize` says what each is."""

    target: str = "cpu"
    method: str = "mse"
    percentile: float = 99.99
    methods: tuple[str, ...] = ()
    metric: Metric = field(default_factory=lambda: Metric("auto"))
    max_drop: float | None = None
    threads: int = 0
    cache: Path | None = None
    sensitivity: bool = False


@dataclass(frozen=True, slots=True)
class Speed:
    """A candidate's speed over the float model's, and whether that stands clear of the noise."""

    speedup: float
    faster: bool


Run: TypeAlias = "Callable[[Sequence[Feed]], Sequence[Outputs]]"
"""Runs a model on feeds."""

Race: TypeAlias = "Callable[[ir.Model, ir.Model, Sequence[Mapping[str, Any]]], Speed]"
"""Times the float model and a quantized one on feeds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    `model` is the one to keep: the quantized one where `verdict` is "int8", else the float one.
    `best` is the best quantized model seen, None where nothing could be quantized. `layers` is the
    SQNR in dB of each value that carries a pair, all errors before it included; `islands` what each
    costs alone, worst first, where that was looked for. `costs` are the times of the nodes, where
    they were measured. `unseen` is the score on samples that decided nothing, where there are
    enough, and `trials` what came of the weight methods. `notes` are for the user.
    """

    verdict: Verdict
    reason: str
    model: ir.Model
    plan: QuantPlan
    ranges: Mapping[str, Range]
    best: ir.Model | None = None
    proof: Proof | None = None
    score: Score | None = None
    sqnr_db: float | None = None
    layers: Mapping[str, float] | None = None
    islands: tuple[Island, ...] = ()
    back: tuple[str, ...] = ()
    costs: Costs | None = None
    unseen: Score | None = None
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


def quantize_static(
    model: ir.Model,
    samples: Samples,
    settings: Settings,
    *,
    race: Race | None,
    plan: QuantPlan | None = None,
    plan_only: bool = False,
    progress: Progress = lambda share, doing: None,
) -> Outcome:
    """Quantize a float model with Q/DQ pairs where they run in integers, pay and hold the budget.

    Args:
        model: The float model, already optimized; it is not changed.
        samples: Calibration samples and those to measure on.
        settings: What the user chose.
        race: Times two models; None leaves time out of the decision.
        plan: A plan to carry out as it is, without a search.
        plan_only: Stop when the plan is made.
        progress: Told how far it is.

    Raises:
        BadInput: The model is not one to quantize, the data does not fit, the metric fails, or the
            target or the plan can't be used.
        RuntimeFailed: onnxruntime can't run the model.
    """
    refuse(model)
    target = settings.target if plan is None else plan.target
    if not TARGETS[_checked(target)].here:
        race = None  # What this machine takes says nothing about another runtime.
    timed = race is not None and plan is None and not plan_only
    shop = _workshop(model, samples, replace(settings, target=target), plan, timed, progress)
    run = _Run(model, shop, samples, settings, progress)
    made = plan if plan is not None else shop.plan()
    if plan_only:
        return Outcome("planned", "a plan was asked for", model, made, shop.ranges)
    return run.decide(made, given=plan is not None, race=race)


def _checked(target: str) -> str:
    check_target(target, registry.quant_specs())
    return target


def _workshop(
    model: ir.Model,
    samples: Samples,
    settings: Settings,
    plan: QuantPlan | None,
    timed: bool,
    progress: Progress,
) -> Workshop:
    """The model made ready, with its ranges; `timed` tells that nodes will be timed."""
    work = model.clone()
    name_nodes(work)
    shapes.infer(work)
    types.complete(work)
    if plan is not None:
        check_plan(plan, work)
    make_ready(
        work, samples.calibration, settings.methods, target=settings.target,
        threads=settings.threads, progress=progress,
    )  # fmt: skip
    ranges = collect(
        work, samples.calibration, method=settings.method, percentile=settings.percentile,
        cache=settings.cache, progress=progress, threads=settings.threads,
    )  # fmt: skip
    return Workshop(
        work, registry.quant_specs(), Statistics(ranges, {}, samples.calibration),
        settings.target, settings.methods, settings.threads, eager=timed,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unseen:
    """Samples that nothing was decided on, and how they are scored."""

    metric: Metric
    feeds: Sequence[Feed]

    @classmethod
    def of(cls, samples: Samples | None, metric: Metric) -> Unseen:
        """Those of the user's samples, if any."""
        if samples is None:
            return cls(metric, ())
        return cls(replace(metric, labels=samples.unseen_labels), samples.unseen)

    def score(self, reference: Run, candidate: Run, others: Sequence[Outputs] = ()) -> Score | None:
        """The candidate's score on them; None where there are none."""
        if not self.feeds:
            return None
        return self.metric.score(reference(self.feeds), candidate(self.feeds), self.feeds, others)


class _Run:
    def __init__(
        self,
        model: ir.Model,
        shop: Workshop,
        samples: Samples,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self._model = model
        self._shop = shop
        self._settings = settings
        self._metric = replace(settings.metric, labels=samples.labels)
        self._held = samples.held
        self._unseen = Unseen.of(samples, self._metric)
        self._trials: tuple[Trial, ...] = ()
        self._looked_at = list(itertools.islice(samples.calibration, _LOOKED_AT))
        self._progress = progress
        self._wanted = shop.outputs(model, samples.held)
        # Only metrics of classes use them, and hundreds of other outputs would be large.
        classes = self._metric.name in ("agreement", "top1") or (
            self._metric.name == "auto" and choose(self._wanted[0]) == "agreement"
        )
        more = itertools.islice(samples.calibration, _MARGINS) if classes else ()
        self._others = shop.outputs(model, more) if classes else []

    def decide(self, plan: QuantPlan, *, given: bool, race: Race | None) -> Outcome:
        """Carry out the plan, and what has to be done for it to hold and to pay."""
        if not any(choice.quantize for choice in plan.nodes):
            return self._nothing(plan)
        self._progress(0.0, "quantizing")
        if given:
            return self._outcome(self.judge(plan), (), True, race)
        plan, reasons = self._runs(plan)
        if not any(choice.quantize for choice in plan.nodes):
            return self._nothing(plan)
        search = self._search(plan, reasons, race)
        quick = search.divided()
        if not quick.integers:
            return self._slower(plan, search)
        made = search.plan_for(quick, quick)[0] if search.costs.measured else plan
        bench = Bench(self._held, self._wanted)
        self._shop, self._trials = settle(self._shop, made, bench, self._progress)
        search = replace(search, workshop=self._shop)
        found = self.judge(made)
        islands: tuple[Island, ...] = ()
        if not found.score.within(self._settings.max_drop):
            islands = sensitivities(
                self._shop, found.plan, self._looked_at, self._progress, search.costs
            )
            held, best = put_back(search, islands)
            if held is not None or (best is not None and best.score.drop < found.score.drop):
                found = held or best or found
        elif self._settings.sensitivity:
            islands = sensitivities(
                self._shop, found.plan, self._looked_at, self._progress, search.costs
            )
        return self._outcome(found, islands, False, race, search.costs)

    def _runs(self, plan: QuantPlan) -> tuple[QuantPlan, dict[str, str]]:
        """The plan without nodes that stay float in it all the same, and why each of them does."""
        if not TARGETS[self._shop.target].here:
            return plan, {}
        proof = prove(self._shop.build(plan, correct=False))
        planned = {choice.node for choice in plan.nodes if choice.quantize}
        stayed = [node for node in proof.stayed_float if node.name in planned]
        reasons = {node.name: f"{node.reason} ({node.rule})" for node in stayed}
        return (self._shop.plan(reasons) if reasons else plan), reasons

    def _search(self, plan: QuantPlan, reasons: Mapping[str, str], race: Race | None) -> Search:
        """What time is spent on, and with it the way to spend it better."""
        shop, feeds = self._shop, self._held[:_TIMED]
        model = shapes.declared_copy(shop.model)
        if race is None:
            costs = estimated_costs(model, plan, feeds[0], threads=shop.threads)
        else:
            self._progress(0.0, "timing each node")
            quantized = shop.build(plan, correct=False)
            some = only(plan, shop.model, mixed_names(shop.model, plan))
            mixed = shop.build(some, correct=False)
            costs = measured_costs(model, plan, quantized, feeds, mixed=mixed, threads=shop.threads)
        return Search(
            shop, plan, costs, self._settings.max_drop, self.judge, reasons, self._progress
        )

    def judge(self, plan: QuantPlan, back: tuple[str, ...] = ()) -> Candidate:
        """Carry out a plan and score it on the samples kept apart."""
        model = self._shop.build(plan)
        outputs = self._shop.outputs(model, self._held)
        score = self._metric.score(self._wanted, outputs, self._held, self._others)
        return Candidate(plan, model, score, sqnr_db(self._wanted, outputs), back)

    def _nothing(self, plan: QuantPlan) -> Outcome:
        reasons = Counter(c.reason for c in plan.nodes if c.op_type in PRODUCTS)
        inside = sum(
            ops.is_standard(node, *PRODUCTS) and node.graph is not self._model.graph
            for node in self._model.graph.all_nodes()
        )
        if inside:
            reasons[_INSIDE] += inside
        common = f": {reasons.most_common(1)[0][0]}" if reasons else ", as it has no product"
        reason = f"no node can run in integers{common}"
        return Outcome("float", reason, self._model, plan, self._shop.ranges)

    def _slower(self, plan: QuantPlan, search: Search) -> Outcome:
        """The float model, as no node is faster in integers with its borders."""
        floats, integers = (search.seconds(names) for names in ((), search.names))
        reason = (
            "integers do not pay here, node by node and with their borders: all that could be so"
            f" take {integers * 1e6:.0f} µs a call in integers, {floats * 1e6:.0f} µs in floats"
        )
        found = self.judge(plan)
        return Outcome(
            "float", reason, self._model, plan, self._shop.ranges, best=found.model,
            proof=prove(found.model), score=found.score, sqnr_db=found.sqnr_db,
            costs=search.costs,
        )  # fmt: skip

    def _outcome(
        self,
        found: Candidate,
        islands: tuple[Island, ...],
        given: bool,
        race: Race | None,
        costs: Costs | None = None,
    ) -> Outcome:
        verdict, reason = self._verdict(found, given, race)
        return Outcome(
            verdict=verdict,
            reason=reason,
            model=found.model if verdict == "int8" else self._model,
            plan=found.plan,
            ranges=self._shop.ranges,
            best=found.model,
            proof=prove(found.model) if TARGETS[self._shop.target].here else None,
            score=found.score,
            sqnr_db=found.sqnr_db,
            layers=self._shop.layer_noise(found.model, found.plan, self._looked_at),
            islands=islands,
            back=found.back,
            costs=costs if costs is not None and costs.measured else None,
            unseen=self._unseen.score(
                lambda feeds: self._shop.outputs(self._model, feeds),
                lambda feeds: self._shop.outputs(found.model, feeds),
                self._others,
            ),
            trials=self._trials,
            notes=(
                *(other_grids(self._shop, found.plan) if given else ()),
                *left_out(self._shop, found.plan),
            ),
        )

    def _verdict(self, found: Candidate, given: bool, race: Race | None) -> tuple[Verdict, str]:
        if not found.score.within(self._settings.max_drop):
            budget = found.score.allowed(self._settings.max_drop)
            drop = f"{found.score.metric} drops by {found.score.drop:.4g}"
            return "over budget", f"{drop}, and {budget:g} is allowed"
        if race is None:
            elsewhere = "" if TARGETS[self._shop.target].here else ": the target is not here"
            return "int8", f"it holds the budget; the time was not measured{elsewhere}"
        self._progress(0.0, "timing")
        speed = race(self._model, found.model, self._held)
        if speed.faster:
            return "int8", f"it holds the budget and runs at {speed.speedup:.2f}x"
        if given:
            return "int8", f"the plan was given, and it runs at {speed.speedup:.2f}x only"
        return "float", f"integers do not pay here: they run at {speed.speedup:.2f}x"
