"""`quantize` as users call it: checks what is asked for, and hands it to the mode."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import api, api_modes, io
from onnxopt.api_call import Call, Data
from onnxopt.arguments import Progress, budget, explained, keywords, known, plan_text
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.quantize.clipping import METHODS
from onnxopt.quantize.modes import MODES
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.static import Settings
from onnxopt.quantize.weight_only import Packing
from onnxopt.quantize.weights import DEFAULT as WEIGHTS
from onnxopt.quantize.weights import METHODS as WEIGHT_METHODS
from onnxopt.report.quantization import QuantizationReport


@dataclass(frozen=True, slots=True)
class QuantizeResult(api.Saved):
    """The model to keep, the record of how it came about, and the plan behind it.

    `model` is the quantized model, or the optimized float model where that does not pay; where
    the budget was missed it is the float model too, and `best` the best quantized one.
    """

    model: ir.Model
    report: QuantizationReport
    plan: QuantPlan
    best: ir.Model | None = None


@explained
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
    weights: Sequence[str] = WEIGHTS,
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
        mode: "static" (integers between pairs with ranges from data), "dynamic" (integer products
            whose inputs are coded as the model runs), "weights" (weights as codes, for size),
            "fp16" or "bf16" (16-bit floats, for size and GPUs), or "auto" (the fastest of those
            that fit a CPU).
        data: Samples of real inputs (see check.data.read_data); "random" makes noise up. Each
            fifth run is kept apart to measure on. Only "static" needs it; without it the other
            modes can't say what they lose.
        target: Where the model is to run: "cpu", "openvino", "tensorrt", "qnn", "qnn16"
            (activations of 16 bits) or "generic".
        max_drop: How much may be lost, see check.metric.Score; 0.005 by default, 0.007 for
            agreement.
        method: How ranges are chosen, see quantize.calibrate.collect; "mse" mostly leaves less
            error than "minmax", and takes a little longer.
        percentile: What that method keeps.
        weights: How weights are treated, see quantize.weights.METHODS. "static" takes "order",
            "centre", "saturation", "rounding" and "bias", "dynamic" takes "smoothing" and
            "rounding", "weights" the latter. "smoothing", "rounding" and "bias" are tried on the
            samples kept apart, and taken back where the outputs get worse; the report tells.
            "equalize" (for "static") is only done where it is asked for.
        bits: For the mode "weights": 8 or 4 a weight of a product.
        block: For the mode "weights": how many weights share a scale, a power of two from 16 on;
            0 for a whole channel. By default a channel with 8 bits, and 32 with 4.
        strict: Write nothing where a planned node does not run as planned.
        sensitivity: Measure what each node costs by itself, for the report, even where the budget
            holds without it; for "static".
        bench: Time both models; without it the quantized model is kept untimed.
        keep_best: Where the budget is missed, write the best quantized model anyway.
        cache: A folder for ranges, to be used again for the same model and data.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option or the output
            is not usable.
    """
    known("mode", mode, MODES)
    call = Call(
        model, Data(data, batch, preprocess, metric_of(metric, labels), budget(max_drop)), seed,
        input_shapes, dims, threads, output, external, overwrite, progress,
    )  # fmt: skip
    request = api_modes.Request(
        call=call,
        mode=mode,
        packing=_packing(mode, bits, block),
        settings=Settings(
            target=target, method=known("calibration method", method, METHODS),
            percentile=percentile,
            methods=tuple(known("weight method", each, WEIGHT_METHODS) for each in weights),
            metric=call.data.metric,
            max_drop=max_drop, sensitivity=sensitivity, threads=threads,
            cache=None if cache is None else Path(cache),
        ),
        plan=_plan(plan), plan_only=plan_only, strict=strict, bench=bench,
        first=None if optimize is None else keywords("optimize", optimize),
    )  # fmt: skip
    original = call.load()
    api_modes.refuse(original, request)
    prepared = api_modes.prepare(original, request)
    found, notes = api_modes.attempt(prepared, request)
    outcome = found.outcome
    report = api_modes.report_of(found, prepared, request, notes)
    result = QuantizeResult(outcome.model, report, outcome.plan, outcome.best)
    kept = result.model if report.passed else result.best or result.model
    keep = report.passed or (keep_best and report.agrees)
    call.write(kept, passed=keep and not plan_only)
    return result


def _packing(mode: str, bits: int | None, block: int | None) -> Packing:
    if mode != "weights" and (bits is not None or block is not None):
        raise BadInput(
            "bits and blocks are chosen for the mode weights only", hint="add --mode weights"
        )
    width = 8 if bits is None else bits
    return Packing(width, (32 if width == 4 else 0) if block is None else block)


def _plan(plan: QuantPlan | str | os.PathLike[str] | None) -> QuantPlan | None:
    if plan is None or isinstance(plan, QuantPlan):
        return plan
    return QuantPlan.from_json(plan_text(plan))
