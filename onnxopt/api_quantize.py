"""`quantize` as users call it: checks what is asked for, and hands it to the mode."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxopt import api, api_modes, io
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.quantize.clipping import METHODS
from onnxopt.quantize.modes import MODES
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.static import Settings
from onnxopt.quantize.weight_only import Packing
from onnxopt.quantize.weights import METHODS as WEIGHT_METHODS
from onnxopt.report.quantization import QuantizationReport

Progress: TypeAlias = "Callable[[float, str], None]"

FIRST = (
    "level", "only", "disable", "enable", "freeze_inputs", "max_growth", "opset", "passes", "check",
)  # fmt: skip
"""Keywords of `optimize` that shape the float model that is quantized."""


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """The model to keep, the record of how it came about, and the plan behind it.

    `model` is the quantized model, or the optimized float model where that does not pay; where
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
    mode: str = "static",
    data: Any = None,
    target: str = "cpu",
    metric: Any = "auto",
    labels: Any = None,
    max_drop: float | None = None,
    method: str = "mse",
    percentile: float = 99.99,
    weights: Sequence[str] = WEIGHT_METHODS,
    bits: int | None = None,
    block: int | None = None,
    plan: QuantPlan | str | os.PathLike[str] | None = None,
    plan_only: bool = False,
    strict: bool = False,
    sensitivity: bool = False,
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
    """Make a model smaller and faster by computing with fewer bits, where that is accurate enough.

    The model is optimized first. What comes out loses no more than `max_drop` on the samples that
    are kept apart, and is no slower than the optimized float model, or smaller where size is what
    the mode is for; else it is the optimized float model.

    Args:
        model: A float model; it is never changed.
        mode: "static" (integers between pairs with ranges from data), "dynamic" (integer products
            whose inputs are coded as the model runs), "weights" (weights as codes, for size),
            "fp16" or "bf16" (16-bit floats, for size and GPUs), or "auto" (the fastest of those
            that fit a CPU).
        data: Samples of real inputs (see check.data.read_data); "random" makes noise up. Each
            fifth run is kept apart to measure on. Only "static" needs it; without it the other
            modes can't say what they lose.
        target: Where the model is to run: "cpu", "openvino", "tensorrt", "qnn", "qnn16"
            (activations of 16 bits) or "generic".
        metric: How loss is measured, see check.metric.metric.
        labels: Class indices of all samples, for the metric "top1".
        max_drop: How much may be lost, see check.metric.Score; 0.005 by default, 0.007 for
            agreement.
        method: How ranges are chosen, see quantize.calibrate.collect; "mse" mostly leaves less
            error than "minmax", and takes a little longer.
        percentile: What that method keeps.
        weights: How weights are treated in "static", see quantize.weights.prepare_weights.
        bits: For the mode "weights": 8 or 4 a weight of a product.
        block: For the mode "weights": how many weights share a scale, a power of two from 16 on;
            0 for a whole channel. By default a channel with 8 bits, and 32 with 4.
        plan: A plan, or the path of one, to carry out as it is.
        plan_only: Stop when the plan is made.
        strict: Write nothing where a planned node does not run as planned.
        sensitivity: Measure what each node costs by itself, for the report, even where the budget
            holds without it; for "static".
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
    if mode not in MODES:
        raise BadInput(f"there is no mode {mode!r}", hint=f"choose from {', '.join(MODES)}")
    if data is None and mode != "static" and (labels is not None or max_drop is not None):
        raise BadInput(
            "a loss can only be measured on data, and there is none", hint="give some with --data"
        )
    request = api_modes.Request(
        mode=mode,
        packing=_packing(mode, bits, block),
        settings=Settings(
            target=target, method=_known(method, METHODS), percentile=percentile,
            methods=tuple(weights), metric=metric_of(metric, labels), max_drop=_budget(max_drop),
            sensitivity=sensitivity, threads=threads, cache=None if cache is None else Path(cache),
        ),
        data=data, labels=labels, batch=batch, preprocess=preprocess, plan=_plan(plan),
        plan_only=plan_only, strict=strict, bench=bench,
        first=None if optimize is None else _first(optimize), seed=seed,
        input_shapes=input_shapes, dims=dims,
        progress=progress or (lambda share, doing: None),
    )  # fmt: skip
    original = io.load(model)
    if output is not None:
        io.check_target(original, output, overwrite=overwrite)
    api_modes.refuse(original, request)
    prepared = api_modes.prepare(model, original, request)
    found, notes = api_modes.attempt(prepared, request)
    outcome = found.outcome
    report = api_modes.report_of(
        found, prepared, request, notes, started, api.name_of(model), output
    )
    result = QuantizeResult(outcome.model, report, outcome.plan, outcome.best)
    if output is not None and not plan_only and (report.passed or (keep_best and report.agrees)):
        kept = result.model if report.passed else result.best or result.model
        io.save(kept, output, external=external, overwrite=overwrite)
    return result


def _packing(mode: str, bits: int | None, block: int | None) -> Packing:
    if mode != "weights" and (bits is not None or block is not None):
        raise BadInput(
            "bits and blocks are chosen for the mode weights only", hint="add --mode weights"
        )
    width = 8 if bits is None else bits
    return Packing(width, (32 if width == 4 else 0) if block is None else block)


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
