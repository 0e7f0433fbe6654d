"""`prune` as users call it: optimizes, plans, removes, proves, recovers, times, writes, reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.api_call import Call, Data
from onnxopt.api_prune_steps import Run, subject_of
from onnxopt.arguments import Progress, budget, explained, keywords
from onnxopt.bench.cost import macs_by_node
from onnxopt.check.metric import metric as metric_of
from onnxopt.prune import request
from onnxopt.prune.explain import Explanation
from onnxopt.prune.explain import explain as explain_groups
from onnxopt.prune.plan import PrunePlan, read_plan
from onnxopt.report.pruning import PruneReport


@dataclass(frozen=True, slots=True)
class PruneResult(api.Saved):
    """The pruned model, the record of how it came about, and the plan behind it.

    With `plan_only` the model is the optimized one, nothing removed.
    """

    model: ir.Model
    report: PruneReport
    plan: PrunePlan


@explained
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
    rounding: int | None = None,
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
        rounding: What is left of a group is a multiple of this; None is 8, or 4 for groups of fewer
            than 64 channels.
        max_ratio: The largest share that a group may give, or such shares by pattern of its name.
        bench: Time the optimized and the pruned model.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, the data, an option, the plan or
            the output is not usable, or the target is out of reach.
    """
    given = read_plan(plan)
    targets = {
        "macs": macs, "params": params, "latency": latency, "ratio": ratio, "threshold": threshold,
    }  # fmt: skip
    settings = request.settings(
        data, given, targets, score=score, recover=recover, normalize=normalize,
        rounding=rounding, max_ratio=max_ratio, keep=keep, seed=seed, threads=threads,
    )  # fmt: skip
    call = Call(
        model, Data(data, batch, preprocess, metric_of(metric, labels), budget(max_drop)), seed,
        input_shapes, dims, threads, output, external, overwrite, progress,
    )  # fmt: skip
    run = Run(call, settings, keywords("optimize", optimize), given, plan_only)
    call.load()
    fresh = run.optimized()
    split = call.split(fresh.model)
    made = run.made(fresh.model, split)
    report = run.report(fresh, made, split, bench=bench and not plan_only)
    call.write(made.model, passed=report.passed and not plan_only)
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
    subject = subject_of(fresh.model, keep)
    return explain_groups(subject.model, subject.groups, macs_by_node(subject.model, dims=dims))
