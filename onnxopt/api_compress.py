"""`compress` as users call it: prune, recover, teach, quantize, each step kept or rolled back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.api_call import Call, Data
from onnxopt.api_steps import Asked, Choices, Judge, Run
from onnxopt.arguments import FIRST, Progress, budget, explained, keywords
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.quantize import samples
from onnxopt.quantize.subject import refuse
from onnxopt.report.compression import CompressionReport
from onnxopt.report.record import Versions

MAX_DROP = 0.03
"""What may be lost unless the user says otherwise: who removes a part of a model expects to."""
PRUNE = (
    "macs", "params", "latency", "ratio", "threshold", "score", "recover", "normalize", "keep",
    "rounding", "max_ratio", "plan",
)  # fmt: skip
DISTILL = (
    "loss", "temperature", "match", "match_weight", "epochs", "minutes", "steps", "learning_rate",
    "batch", "augment", "held", "patience", "average", "freeze", "device", "checkpoint", "resume",
)  # fmt: skip
QUANTIZE = (
    "mode", "target", "method", "percentile", "weights", "bits", "block", "strict", "sensitivity",
    "cache",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CompressResult(api.Saved):
    """What is left of the model, and the record of how it came about."""

    model: ir.Model
    report: CompressionReport


@explained
def compress(
    model: io.Source,
    *,
    data: Any,
    prune: float | Mapping[str, Any] | None = None,
    distill: bool | Mapping[str, Any] = False,
    quantize: bool | Mapping[str, Any] = False,
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
) -> CompressResult:
    """Prune, recover, teach and quantize a model under one budget, and prove what is left.

    The samples are split once: no step learns from those kept apart to measure on, though plans and
    the best of several weights are chosen by them. After each step its model is scored on them
    against the original float model. A step that loses more than `max_drop`
    or that is no faster than what it began with is rolled back and named; the next goes on from
    what was kept. Pruning that loses too much is first taught, where that is asked for.

    Args:
        prune: The share of the multiply-accumulates to keep, or keywords of `onnxopt.prune` among
            PRUNE.
        distill: Whether the model is to teach what pruning left (needs torch), or keywords of
            `onnxopt.distill` among DISTILL.
        quantize: Whether to quantize then, or keywords of `onnxopt.quantize` among QUANTIZE.
        max_drop: How much all steps together may lose, see check.metric.Score; 0.03 by default.
        bench: Time the models; without it a step is kept untimed.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option or the output
            is not usable, the target of pruning is out of reach, or torch is missing.
    """
    asked = _asked(prune, distill, quantize, optimize)
    _refuse(data)
    allowed = MAX_DROP if max_drop is None else max_drop
    call = Call(
        model, Data(data, batch, preprocess, metric_of(metric, labels), budget(allowed)), seed,
        input_shapes, dims, threads, output, external, overwrite, progress,
    )  # fmt: skip
    original = call.load()
    if asked.quantize is not None:
        refuse(original)
    fresh = call.optimized(**asked.optimize)
    split = call.split(fresh.model)
    assert split is not None
    judge = Judge(call.data.metric, split, original, threads)
    run = Run(asked, judge, Choices(allowed, bench, threads, seed, call.say), fresh.model)
    timing = None
    if fresh.report.passed:
        run.prune_and_teach()
        run.quantize()
        timing = run.timing(original) if bench else None
    report = CompressionReport(
        source=call.source,
        output=call.target,
        metric=run.kept.score.metric,
        max_drop=allowed,
        score=run.kept.score,
        decisions=tuple(run.decisions),
        stages=run.stages(fresh.report.before, timing),
        timing=timing,
        optimization=fresh.report,
        pruning=run.reports.get("prune"),
        distillation=run.reports.get("distill"),
        quantization=run.reports.get("quantize"),
        versions=Versions.here(),
        notes=(split.note, *fresh.report.notes),
        seconds=call.seconds,
    )
    call.write(run.kept.model, passed=report.passed)
    return CompressResult(run.kept.model, report)


def _asked(prune: Any, distill: Any, quantize: Any, optimize: Any) -> Asked:
    """The keywords of each step, checked. Raises BadInput."""
    if isinstance(prune, int | float) and not isinstance(prune, bool):
        prune = {"macs": float(prune)}
    found = Asked(
        _known("prune", prune, PRUNE),
        _known("distill", distill, DISTILL),
        _known("quantize", quantize, QUANTIZE),
        _known("optimize", optimize, FIRST) or {},
    )
    if found.prune is None and found.quantize is None:
        raise BadInput(
            "there is no step to take", hint="ask for --prune, for --quantize, or for both"
        )
    if found.distill is not None:
        if found.prune is None:
            raise BadInput("there is nothing to teach where nothing is pruned", hint="add --prune")
        from onnxopt.distill.door import require_torch

        require_torch()
    if found.prune is not None and found.prune.get("recover") == "distill":
        raise BadInput("teaching is a step of its own here", hint="ask for it with distill=True")
    return found


def _known(step: str, given: Any, names: Sequence[str]) -> Mapping[str, Any] | None:
    if given is None or given is False:
        return None
    if given is True and step != "prune":
        return {}
    if not isinstance(given, Mapping):
        raise BadInput(f"{step}={given!r} says nothing", hint=f"give some of {', '.join(names)}")
    return keywords(step, given, names)


def _refuse(data: Any) -> None:
    if data is None:
        raise BadInput(
            "a budget can only be held on data, and there is none", hint="give some with --data"
        )
    if isinstance(data, str) and data == samples.RANDOM:
        raise BadInput(
            "on noise no loss can be measured, and no budget held",
            hint="give samples of real inputs with --data",
        )
