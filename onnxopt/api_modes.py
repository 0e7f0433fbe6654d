"""The steps of `quantize` for every mode: optimize, read data, run the mode, time, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.api_call import Call
from onnxopt.bench.cost import cost
from onnxopt.bench.race import Race
from onnxopt.bench.race import race as race_models
from onnxopt.bench.timing import Timing
from onnxopt.check.feeds import synthesize
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize import samples, static, subject
from onnxopt.quantize.auto import fitting
from onnxopt.quantize.code_modes import (
    DYNAMIC_TARGETS,
    WEIGHT_TARGETS,
    DynamicMode,
    WeightsMode,
    refuse_target,
)
from onnxopt.quantize.draft import name_all
from onnxopt.quantize.half_mode import HalfMode, refuse_half, refuse_types
from onnxopt.quantize.modes import Given, Mode, is_large, run_mode
from onnxopt.quantize.plan import check_target
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.static import Outcome, Settings, Speed
from onnxopt.quantize.weight_only import Packing
from onnxopt.registry import quant_specs
from onnxopt.report.quantization import QuantizationReport, layers_of, stages_of
from onnxopt.report.record import Versions
from onnxopt.runtime import types

LEAST_OPSET = 13
"""The first opset with a scale for each channel."""
_TIMED = 2
"""Samples that both models are timed on."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for, checked; `api_quantize.quantize` says what each part is."""

    call: Call
    mode: str
    packing: Packing
    settings: Settings
    plan: QuantPlan | None = None
    plan_only: bool = False
    strict: bool = False
    bench: bool = True
    first: Mapping[str, Any] | None = None

    @property
    def opset(self) -> int:
        """The first opset that can say what the mode makes."""
        if self.mode == "weights":
            return self.packing.opset
        return LEAST_OPSET if self.mode in ("static", "auto", "bf16") else 11


@dataclass(frozen=True, slots=True)
class Prepared:
    """The float model on its way: as given, optimized, and with all nodes named."""

    original: ir.Model
    optimized: api.Result
    named: ir.Model
    samples: samples.Samples | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one mode, and its timing if any."""

    mode: str
    outcome: Outcome
    timing: Timing | None

    @property
    def speedup(self) -> float:
        """How much faster than the float model, 1 where that was not measured."""
        return self.timing.comparisons[0].speedup.median if self.timing is not None else 1.0


def refuse(model: ir.Model, request: Request) -> None:
    """Raise BadInput where the mode can do nothing for the model, or the target not run it."""
    mode, target, plan = request.mode, request.settings.target, request.plan
    if plan is not None and mode not in (plan.mode, "auto"):
        raise BadInput(
            f"the plan is for the mode {plan.mode}, not {mode}",
            hint=f"give --mode {plan.mode}, or make the plan anew",
        )
    if mode in ("fp16", "bf16"):
        refuse_half(mode, target)
        refuse_types(model, mode)
        return
    subject.refuse(model)
    if mode == "static":
        # Nobody should wait for the rewriting to be told this.
        samples.require(request.call.data.source)
        check_target(target if request.plan is None else request.plan.target, quant_specs())
    known = {"dynamic": DYNAMIC_TARGETS, "auto": ("cpu",), "weights": WEIGHT_TARGETS}.get(mode)
    if known is not None:
        refuse_target(mode, target, known)


def prepare(original: ir.Model, request: Request) -> Prepared:
    """Optimize the model, name its nodes, read the data.

    Raises OnnxoptError where the model or the data is not usable.
    """
    notes = []
    first = dict(request.first or {})
    opset = original.opset_imports.get("", request.opset)
    if max(opset, first.get("opset") or 0) < request.opset:
        first["opset"] = request.opset
        notes.append(f"the opset was raised from {opset} to {request.opset} for {request.mode}")
    if is_large(original) and request.mode != "static":
        notes.append("the model is large: codes are those to nearest")
        if request.first is None:
            first["check"] = False
            notes[-1] += ", and that optimizing it changed nothing was not proven"
    fresh = request.call.optimized(**first)
    named = fresh.model.clone()
    name_all(named)
    return Prepared(original, fresh, named, _samples(fresh.model, request, notes), tuple(notes))


def _samples(model: ir.Model, request: Request, notes: list[str]) -> samples.Samples | None:
    found = request.call.split(model, confirm=True)
    if found is None:
        if request.mode != "auto":
            notes.append("there is no data: what it costs in accuracy was not measured")
        return None
    if request.call.data.is_noise:
        notes.append("the samples are noise: neither ranges nor losses say much about real inputs")
    notes.append(found.note)
    return found


def attempt(prepared: Prepared, request: Request) -> tuple[Attempt, tuple[str, ...]]:
    """What came of the mode, or of the best one for `auto`; and a word on the others."""
    if request.mode != "auto" or request.plan is not None:
        mode = request.mode if request.plan is None else request.plan.mode
        return _attempt(prepared, request, mode), ()
    notes: list[str] = []
    tried: list[Attempt] = []
    for fit in fitting(prepared.named, has_data=prepared.samples is not None):
        done = fit.last_resort and any(_is_kept(each) for each in tried)
        if fit.refusal or done:
            why = fit.refusal or f"{tried[-1].mode} pays already"
            notes.append(f"auto left out {fit.mode}: {why}")
            continue
        found = _attempt(prepared, request, fit.mode)
        tried.append(found)
        notes.append(f"auto tried {fit.mode}: {found.outcome.verdict}, {found.outcome.reason}")
        if request.plan_only:
            break
    if not tried:
        raise BadInput(
            "auto found nothing to try: " + "; ".join(notes),
            hint="give samples of real inputs with --data, or choose a --mode",
        )
    notes.append("auto leaves out weights, fp16 and bf16: on a CPU they are smaller, not faster")
    return max(tried, key=_rank), tuple(notes)


def _rank(found: Attempt) -> tuple[bool, bool, float]:
    return _is_kept(found), found.outcome.verdict == "float", found.speedup


def _is_kept(found: Attempt) -> bool:
    return found.outcome.verdict not in ("float", "over budget")


def _attempt(prepared: Prepared, request: Request, name: str) -> Attempt:
    timings: list[Timing] = []

    def race(left: ir.Model, right: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> Speed:
        found = _time(left, right, feeds, prepared, request, _label(name, request))
        timings.append(found.timing)
        return Speed(found.speedup, found.faster)

    raced = race if request.bench else None
    if name == "static":
        assert prepared.samples is not None
        outcome = static.quantize_static(
            prepared.optimized.model, prepared.samples, request.settings, race=raced,
            plan=request.plan, plan_only=request.plan_only, progress=request.call.say,
        )  # fmt: skip
    else:
        shapes.infer(prepared.named)
        types.complete(prepared.named)
        given = Given(
            request.settings, prepared.samples, lambda made: _timed(made, prepared, request), raced,
            request.plan, request.plan_only, request.call.say,
        )  # fmt: skip
        outcome = run_mode(prepared.named, _mode(name, prepared, request), given)
        if outcome.model is prepared.named:
            outcome = replace(outcome, model=prepared.optimized.model)
    return Attempt(name, outcome, timings[-1] if timings else None)


def _mode(name: str, prepared: Prepared, request: Request) -> Mode:
    feeds = None if prepared.samples is None else prepared.samples.calibration
    if is_large(prepared.named):
        feeds = None
    threads = request.settings.threads
    methods = request.settings.methods
    if name == "dynamic":
        return DynamicMode(feeds, threads, methods)
    if name == "weights":
        return WeightsMode(request.packing, feeds, threads, methods)
    return HalfMode(name, request.settings.target, feeds, threads)


def _label(name: str, request: Request) -> str:
    return f"int{request.packing.bits}" if name not in ("fp16", "bf16") else name


def _timed(made: ir.Model, prepared: Prepared, request: Request) -> Sequence[Mapping[str, Any]]:
    """The samples to time on: real ones, else made-up ones of likely sizes that `made` takes."""
    if prepared.samples is not None:
        return prepared.samples.held[:_TIMED]
    return list(synthesize(made, seed=request.call.seed, count=_TIMED))


def _time(
    left: ir.Model,
    right: ir.Model,
    feeds: Sequence[Mapping[str, Any]],
    prepared: Prepared,
    request: Request,
    label: str,
) -> Race:
    io.release(left)
    with_original = request.first is not None
    return race_models(
        [left, right, prepared.original] if with_original else [left, right],
        names=("float", label, "original") if with_original else ("float", label),
        feeds=feeds[:_TIMED],
        threads=request.settings.threads,
        progress=request.call.say,
    )


def report_of(
    found: Attempt,
    prepared: Prepared,
    request: Request,
    notes: tuple[str, ...],
) -> QuantizationReport:
    """The record of what came of it."""
    outcome, timing, fresh = found.outcome, found.timing, prepared.optimized
    score = outcome.score
    return QuantizationReport(
        source=request.call.source,
        output=request.call.target,
        target=outcome.plan.target,
        mode=found.mode,
        verdict=outcome.verdict,
        reason=outcome.reason,
        score=score,
        max_drop=None if score is None else score.allowed(request.settings.max_drop),
        sqnr_db=outcome.sqnr_db,
        unseen=outcome.unseen,
        trials=outcome.trials,
        layers=layers_of(outcome, fresh.model if found.mode == "static" else prepared.named),
        islands=outcome.islands,
        back=outcome.back,
        borders={} if outcome.proof is None else outcome.proof.borders,
        timing=timing,
        float_bytes=io.model_bytes(fresh.model),
        bytes=None if outcome.best is None else io.model_bytes(outcome.best),
        versions=Versions.here(),
        notes=(*prepared.notes, *outcome.notes, *notes, *fresh.report.notes),
        seconds=request.call.seconds,
        strict=request.strict,
        optimization=fresh.report,
        stages=stages_of(
            fresh.report, None if outcome.best is None else cost(outcome.best), timing, score
        ),
    )
