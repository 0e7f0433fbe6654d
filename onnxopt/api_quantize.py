"""`quantize` as users call it: optimizes, quantizes, times, decides, writes, reports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.bench.cost import cost
from onnxopt.bench.timing import Timing
from onnxopt.bench.timing import bench as time_models
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.quantize import samples, static
from onnxopt.quantize.clipping import METHODS
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.weights import METHODS as WEIGHT_METHODS
from onnxopt.report.quantization import QuantizationReport, layers_of, stages_of
from onnxopt.report.record import Versions

Progress: TypeAlias = "Callable[[float, str], None]"

_TIMED = 2
"""Samples that both models are timed on."""
FIRST = (
    "level", "only", "disable", "enable", "freeze_inputs", "max_growth", "opset", "passes", "check",
)  # fmt: skip
"""Keywords of `optimize` that shape the float model that is quantized."""
LEAST_OPSET = 13
"""The first opset with a scale for each channel."""


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """The model to keep, the record of how it came about, and the plan behind it.

    `model` is the quantized model, or the optimized float model where integers do not pay; where
    the budget was missed it is the float model too, and `best` the best quantized one.
    """

    model: ir.Model
    report: QuantizationReport
    plan: QuantPlan
    best: ir.Model | None = None

    def save(self, path: str | os.PathLike[str], *, external: io.External = "keep") -> Path:
        """Write the model (see io.save)."""
        return io.save(self.model, path, external=external)


def quantize(
    model: io.Source,
    *,
    data: Any = None,
    target: str = "cpu",
    metric: Any = "auto",
    labels: Any = None,
    max_drop: float | None = None,
    method: str = "minmax",
    percentile: float = 99.99,
    weights: Sequence[str] = WEIGHT_METHODS,
    plan: QuantPlan | str | os.PathLike[str] | None = None,
    plan_only: bool = False,
    strict: bool = False,
    bench: bool = True,
    keep_best: bool = False,
    batch: int = 1,
    preprocess: str | None = None,
    optimize: Mapping[str, Any] | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int = 0,
    cache: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    external: io.External = "keep",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Make a model that runs in 8-bit integers where that is faster and accurate enough.

    The model is optimized first. What comes out is no slower than that, and loses no more than
    `max_drop` on the samples that are kept apart; else it is the optimized float model.

    Args:
        model: A float model; it is never changed.
        data: Samples of real inputs (see check.data.read_data); "random" makes noise up. Each
            fifth run is kept apart to measure on.
        target: Where the model is to run: "cpu", "openvino", "tensorrt", "qnn" or "generic".
        metric: How loss is measured, see check.metric.metric.
        labels: Class indices of all samples, for the metric "top1".
        max_drop: How much may be lost, see check.metric.Score; 0.005 by default, and 0.015 for
            agreement.
        method: How ranges are chosen, see quantize.calibrate.collect.
        percentile: What that method keeps.
        weights: How weights are treated, see quantize.weights.prepare_weights.
        plan: A plan, or the path of one, to carry out as it is.
        plan_only: Stop when the plan is made.
        strict: Write nothing where a planned node does not run in integers.
        bench: Time both models; without it the quantized model is kept untimed.
        keep_best: Where the budget is missed, write the best quantized model anyway.
        batch: Samples a run of `data`.
        preprocess: How pictures in `data` become inputs, see check.images.Preprocess.
        optimize: How the model is optimized first: keywords of `onnxopt.optimize` among level,
            only, disable, enable, freeze_inputs, max_growth, opset, passes and check.
        seed: Seed of what is made up.
        input_shapes: New shapes of inputs, by name.
        dims: Sizes of symbolic dims, by name.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        cache: A folder for ranges, to be used again for the same model and data.
        output: Where to write the result; nothing is written where `report.passed` is False.
        external: Where weights go when `output` is written (see io.save).
        overwrite: Allow `output` to be the input file.
        progress: Told how far it is.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option or the output
            is not usable.
    """
    started = time.perf_counter()
    say = progress or (lambda share, doing: None)
    settings = static.Settings(
        target=target, method=_known(method, METHODS), percentile=percentile,
        methods=tuple(weights), metric=metric_of(metric, labels),
        max_drop=_budget(max_drop), threads=threads, cache=None if cache is None else Path(cache),
    )  # fmt: skip
    given = _plan(plan)
    original = io.load(model)
    if output is not None:
        io.check_target(original, output, overwrite=overwrite)
    static.refuse(original)
    notes = []
    first = _first(optimize)
    opset = original.opset_imports.get("", LEAST_OPSET)
    if max(opset, first.get("opset") or 0) < LEAST_OPSET:
        first["opset"] = LEAST_OPSET
        notes.append(f"the opset was raised from {opset} to {LEAST_OPSET}: scales by channel")
    fresh = api.optimize(
        model, bench=False, seed=seed, input_shapes=input_shapes, dims=dims, threads=threads,
        progress=lambda doing: say(0.0, doing), **first,
    )  # fmt: skip
    if data is not None and isinstance(data, str) and data == samples.RANDOM:
        notes.append("the samples are noise: neither ranges nor losses say much about real inputs")
    split = samples.split(
        data, fresh.model, batch=batch, preprocess=preprocess, labels=labels, seed=seed
    )
    timings: list[Timing] = []

    def race(left: ir.Model, right: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> static.Speed:
        timing = time_models(
            [left, right] if optimize is None else [left, right, original],
            names=("float", "int8") if optimize is None else ("float", "int8", "original"),
            feeds=feeds[:_TIMED],
            threads=threads,
            progress=say,
        )
        timings.append(timing)
        found = timing.comparisons[0]
        # A slow model has few rounds, too few for a verdict; the interval then has to be enough.
        faster = found.verdict == "faster" or found.speedup.low > timing.noise_floor
        return static.Speed(found.speedup.median, faster)

    outcome = static.quantize_static(
        fresh.model, split, settings, race=race if bench else None, plan=given,
        plan_only=plan_only, progress=say,
    )  # fmt: skip
    report = QuantizationReport(
        source=api.name_of(model),
        output="<memory>" if output is None else os.fspath(output),
        target=outcome.plan.target,
        verdict=outcome.verdict,
        reason=outcome.reason,
        score=outcome.score,
        max_drop=None if outcome.score is None else outcome.score.allowed(settings.max_drop),
        sqnr_db=outcome.sqnr_db,
        layers=layers_of(outcome, fresh.model),
        islands=outcome.islands,
        back=outcome.back,
        borders={} if outcome.proof is None else outcome.proof.borders,
        timing=timings[0] if timings else None,
        float_bytes=io.model_bytes(fresh.model),
        bytes=None if outcome.best is None else io.model_bytes(outcome.best),
        versions=Versions.here(),
        notes=(*notes, split.note, *fresh.report.notes),
        seconds=time.perf_counter() - started,
        strict=strict,
        optimization=fresh.report,
        stages=stages_of(
            fresh.report,
            None if outcome.best is None else cost(outcome.best),
            timings[0] if timings else None,
            outcome.score,
        ),
    )
    result = QuantizeResult(outcome.model, report, outcome.plan, outcome.best)
    if output is not None and not plan_only and (report.passed or keep_best):
        kept = result.model if report.passed else result.best or result.model
        io.save(kept, output, external=external, overwrite=overwrite)
    return result


def _first(optimize: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keywords for the optimization that goes first."""
    chosen = dict(optimize or {})
    for name in chosen:
        if name not in FIRST:
            raise BadInput(
                f"{name!r} says nothing about how a model is optimized first",
                hint=f"choose from {', '.join(FIRST)}",
            )
    return chosen


def _known(method: str, methods: Sequence[str]) -> str:
    if method not in methods:
        raise BadInput(
            f"there is no calibration method {method!r}", hint=f"choose from {', '.join(methods)}"
        )
    return method


def _budget(max_drop: float | None) -> float | None:
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise BadInput(f"the drop can't be {max_drop}", hint="give 0 or more, such as 0.005")
    return max_drop


def _plan(plan: QuantPlan | str | os.PathLike[str] | None) -> QuantPlan | None:
    if plan is None or isinstance(plan, QuantPlan):
        return plan
    try:
        text = Path(plan).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the plan {plan} can't be read: {error}") from error
    return QuantPlan.from_json(text)
