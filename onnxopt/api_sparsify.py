"""`sparsify` as users call it: optimizes, settles zeros and palettes, mends, measures, writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.api_call import Call, Data
from onnxopt.arguments import Progress, budget, explained
from onnxopt.check.metric import metric as metric_of
from onnxopt.prune import request
from onnxopt.prune.clustering import zipped_bytes
from onnxopt.prune.compression import compress
from onnxopt.report.record import Versions
from onnxopt.report.sparsity import SparsityReport


@dataclass(frozen=True, slots=True)
class SparsifyResult(api.Saved):
    """The model with sparse or few-valued weights, and the record of how it came about."""

    model: ir.Model
    report: SparsityReport


@explained
def sparsify(
    model: io.Source,
    *,
    sparsity: float | str | None = None,
    cluster: int | None = None,
    data: Any = None,
    score: str | None = None,
    recover: str | None = None,
    keep: Sequence[str] = (),
    metric: Any = "auto",
    labels: Any = None,
    max_drop: float | None = None,
    batch: int = 1,
    preprocess: str | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int = 0,
    output: str | os.PathLike[str] | None = None,
    external: io.External = "keep",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SparsifyResult:
    """Put zeros into weights, or let them take a few values only; shapes and names stay.

    onnxruntime's CPU provider gains nothing from it: it is for runtimes with sparse kernels, and
    for files that are compressed. The model is optimized first.

    Args:
        sparsity: The share of each layer's weights to set to 0, such as 0.5, or "2:4": two of every
            four neighbouring inputs.
        cluster: How many values the weights of a tensor may take, such as 16.
        score: Which weights go: "reconstruction" (the default with data; those that the others can
            make up for best) or "magnitude" (the smallest).
        recover: "least-squares" (the default with data; the weights that stay and the biases make
            up for what goes) or "none".
        keep: Nodes or weights that stay as they are; patterns such as `*head*` are fine.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option or the output
            is not usable, or no weight can be changed.
    """
    settings = request.sparsity_settings(
        data, sparsity=sparsity, cluster=cluster, score=score, recover=recover, keep=keep,
        threads=threads,
    )  # fmt: skip
    call = Call(
        model, Data(data, batch, preprocess, metric_of(metric, labels), budget(max_drop)), seed,
        input_shapes, dims, threads, output, external, overwrite, progress,
    )  # fmt: skip
    call.load()
    fresh = call.optimized()
    split = call.split(fresh.model)
    feeds = None if split is None else split.calibration
    made, layers = compress(fresh.model, settings, feeds, say=call.say)
    report = SparsityReport(
        source=call.source,
        output=call.target,
        sparsity="" if sparsity is None else str(sparsity),
        cluster=cluster,
        score_name=settings.score if settings.pattern is not None else "",
        recover="least-squares" if settings.mend else "none",
        layers=layers,
        file_bytes=io.model_bytes(made),
        zipped_before=zipped_bytes(fresh.model),
        zipped_after=zipped_bytes(made),
        score=call.score(fresh.model, made, split),
        max_drop=max_drop,
        versions=Versions.here(),
        notes=() if split is None else (split.note,),
        seconds=call.seconds,
    )
    call.write(made, passed=report.passed)
    return SparsifyResult(made, report)
