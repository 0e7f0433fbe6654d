"""`compress` as users call it: prune, recover, teach, quantize, each step kept or rolled back."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import api, api_quantize, io
from onnxopt.api_steps import Asked, Choices, Judge, Progress, Run
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.quantize import samples, static
from onnxopt.report.compression import CompressionReport
from onnxopt.report.record import Versions

MAX_DROP = 0.03
"""What may be lost unless the user says otherwise: who removes a part of a model expects to."""
FIRST = api_quantize.FIRST
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
class CompressResult:
    """What is left of the model, and the record of how it came about."""

    model: ir.Model
    report: CompressionReport

    def save(self, path: str | os.PathLike[str], *, external: io.External = "keep") -> Path:
        """Write the model (see io.save)."""
        return io.save(self.model, path, external=external)


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

    The samples are split once: those kept apart to measure on serve no step. After each step its
    model is scored on them against the original float model. A step that loses more than `max_drop`
    or that is no faster than what it began with is rolled back and named; the next goes on from
    what was kept. Pruning that loses too much is first taught, where that is asked for.

    Args:
        model: A float model; it is never changed.
        data: Samples of real inputs (see check.data.read_data).
        prune: The share of the multiply-accumulates to keep, or keywords of `onnxopt.prune` among
            PRUNE.
        distill: Whether the model is to teach what pruning left (needs torch), or keywords of
            `onnxopt.distill` among DISTILL.
        quantize: Whether to quantize then, or keywords of `onnxopt.quantize` among QUANTIZE.
        metric: How loss is measured, see check.metric.metric.
        labels: Class indices of all samples, for the metric "top1".
        max_drop: How much all steps together may lose, see check.metric.Score; 0.03 by default.
        bench: Time the models; without it a step is kept untimed.
        batch: Samples a run of `data`.
        preprocess: How pictures in `data` become inputs, see check.images.Preprocess.
        optimize: How the model is optimized first: keywords of `onnxopt.optimize` among FIRST.
        seed: Seed of what is made up.
        input_shapes: New shapes of inputs, by name.
        dims: Sizes of symbolic dims, by name.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        output: Where to write the result; nothing is written where `report.passed` is False.
        external: Where weights go when `output` is written (see io.save).
        overwrite: Allow `output` to be the input file.
        progress: Told how far it is.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option or the output
            is not usable, the target of pruning is out of reach, or torch is missing.
    """
    started = time.perf_counter()
    asked = _asked(prune, distill, quantize, optimize)
    budget = _budget(max_drop)
    chosen = metric_of(metric, labels)
    _refuse(data)
    original = io.load(model)
    if asked.quantize is not None:
        static.refuse(original)
    if output is not None:
        io.check_target(original, output, overwrite=overwrite)
    say = progress or (lambda share, doing: None)
    fresh = api.optimize(
        model, bench=False, seed=seed, input_shapes=input_shapes, dims=dims, threads=threads,
        progress=lambda doing: say(0.0, doing), **asked.optimize,
    )  # fmt: skip
    split = samples.split(
        data, fresh.model, batch=batch, preprocess=preprocess, labels=labels, seed=seed
    )
    judge = Judge(chosen, split, original, threads)
    run = Run(asked, judge, Choices(budget, bench, threads, seed, say), fresh.model)
    timing = None
    if fresh.report.passed:
        run.prune_and_teach()
        run.quantize()
        timing = run.timing(original) if bench else None
    report = CompressionReport(
        source=api.name_of(model),
        output="<memory>" if output is None else os.fspath(output),
        metric=run.kept.score.metric,
        max_drop=budget,
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
        seconds=time.perf_counter() - started,
    )
    if output is not None and report.passed:
        io.save(run.kept.model, output, external=external, overwrite=overwrite)
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
    for name in given:
        if name not in names:
            raise BadInput(
                f"{name!r} is nothing to choose for {step}", hint=f"choose from {', '.join(names)}"
            )
    return dict(given)


def _budget(max_drop: float | None) -> float:
    if max_drop is None:
        return MAX_DROP
    if not 0 <= max_drop < float("inf"):
        raise BadInput(f"the drop can't be {max_drop}", hint="give 0 or more, such as 0.03")
    return max_drop


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
