"""`sparsify` as users call it: optimizes, settles zeros and palettes, mends, measures, writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.check.metric import Metric, Score
from onnxopt.check.metric import metric as metric_of
from onnxopt.errors import BadInput
from onnxopt.prune.clustering import known_count, zipped_bytes
from onnxopt.prune.compression import Settings, compress
from onnxopt.prune.sparsity import SCORES, Pattern
from onnxopt.quantize import samples
from onnxopt.report.record import Versions
from onnxopt.report.sparsity import SparsityReport
from onnxopt.runtime.sessions import Session

Progress: TypeAlias = "Callable[[float, str], None]"

RECOVERIES = ("least-squares", "none")


@dataclass(frozen=True, slots=True)
class SparsifyResult:
    """The model with sparse or few-valued weights, and the record of how it came about."""

    model: ir.Model
    report: SparsityReport

    def save(self, path: str | os.PathLike[str], *, external: io.External = "keep") -> Path:
        """Write the model (see io.save)."""
        return io.save(self.model, path, external=external)


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
        model: A float model; it is never changed.
        sparsity: The share of each layer's weights to set to 0, such as 0.5, or "2:4": two of every
            four neighbouring inputs.
        cluster: How many values the weights of a tensor may take, such as 16.
        data: Samples of real inputs without labels (see check.data.read_data). Each fifth run is
            kept apart to measure on.
        score: Which weights go: "reconstruction" (the default with data; those that the others can
            make up for best) or "magnitude" (the smallest).
        recover: "least-squares" (the default with data; the weights that stay and the biases make
            up for what goes) or "none".
        keep: Nodes or weights that stay as they are; patterns such as `*head*` are fine.
        metric: How the loss that is reported is measured, see check.metric.metric.
        labels: Class indices of all samples, for the metric "top1".
        max_drop: How much may be lost (see check.metric.Score); without it anything.
        batch: Samples a run of `data`.
        preprocess: How pictures in `data` become inputs, see check.images.Preprocess.
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
            is not usable, or no weight can be changed.
    """
    started = time.perf_counter()
    settings = _settings(sparsity, cluster, score, recover, keep, threads, data)
    measure = metric_of(metric, labels)
    say = progress or (lambda share, doing: None)
    if output is not None:
        io.check_target(io.load(model), output, overwrite=overwrite)
    fresh = api.optimize(
        model, bench=False, seed=seed, input_shapes=input_shapes, dims=dims, threads=threads,
        progress=lambda doing: say(0.0, doing),
    )  # fmt: skip
    split = None if data is None else samples.split(
        data, fresh.model, batch=batch, preprocess=preprocess, labels=labels, seed=seed
    )  # fmt: skip
    feeds = None if split is None else split.calibration
    made, layers = compress(fresh.model, settings, feeds, say=say)
    found = None
    if split is not None:
        say(0.95, "measuring on the samples kept apart")
        found = _score(measure, fresh.model, made, split, threads)
    report = SparsityReport(
        source=api.name_of(model),
        output="<memory>" if output is None else os.fspath(output),
        sparsity="" if sparsity is None else str(sparsity),
        cluster=cluster,
        score_name=settings.score if settings.pattern is not None else "",
        recover=RECOVERIES[0] if settings.mend else RECOVERIES[1],
        layers=layers,
        file_bytes=io.model_bytes(made),
        zipped_before=zipped_bytes(fresh.model),
        zipped_after=zipped_bytes(made),
        score=found,
        max_drop=max_drop,
        versions=Versions.here(),
        notes=() if split is None else (split.note,),
        seconds=time.perf_counter() - started,
    )
    if output is not None and report.passed:
        io.save(made, output, external=external, overwrite=overwrite)
    return SparsifyResult(made, report)


def _settings(
    sparsity: float | str | None,
    cluster: int | None,
    score: str | None,
    recover: str | None,
    keep: Sequence[str],
    threads: int,
    data: Any,
) -> Settings:
    if sparsity is None and cluster is None:
        raise BadInput(
            "there is nothing to do to the weights",
            hint="give --sparsity 0.5, --sparsity 2:4 or --cluster 16",
        )
    pattern = None if sparsity is None else Pattern.of(sparsity)
    count = None if cluster is None else known_count(cluster)
    chosen = score or (SCORES[0] if data is not None else SCORES[1])
    mended = recover or RECOVERIES[0 if data is not None else 1]
    for what, name, names in (("score", chosen, SCORES), ("recovery", mended, RECOVERIES)):
        if name not in names:
            raise BadInput(f"there is no {what} {name!r}", hint=f"choose from {', '.join(names)}")
    if data is None and (mended != "none" or chosen == SCORES[0]):
        raise BadInput(
            f"{chosen if mended == 'none' else mended} needs samples of real inputs, and there is"
            " no data",
            hint="give some with --data, or take --score magnitude and --recover none",
        )
    if isinstance(data, str) and data == samples.RANDOM and mended != "none":
        raise BadInput(
            "noise says nothing about what the weights of a model do",
            hint="give samples of real inputs with --data, or take --score magnitude and no data",
        )
    return Settings(pattern, count, chosen, mended != "none", tuple(keep), threads)


def _score(
    metric: Metric,
    reference: ir.Model,
    candidate: ir.Model,
    split: samples.Samples,
    threads: int,
) -> Score:
    found = []
    for model in (reference, candidate):
        session = Session.open(model, optimize=True, threads=threads)
        names = [each.name for each in session.outputs]
        found.append([dict(zip(names, session.run(feed), strict=True)) for feed in split.held])
    asked = replace(metric, labels=split.labels) if metric.name == "top1" else metric
    return asked.score(found[0], found[1], split.held)
