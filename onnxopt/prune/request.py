"""What a user asks of `prune` and `sparsify`, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxopt.arguments import known
from onnxopt.errors import BadInput
from onnxopt.prune import compression
from onnxopt.prune.clustering import known_count
from onnxopt.prune.plan import PrunePlan, Target
from onnxopt.prune.score import known_method
from onnxopt.prune.search import NORMALIZATIONS, RECOVERIES, Settings
from onnxopt.prune.sparsity import SCORES, Pattern
from onnxopt.quantize.samples import RANDOM

NORM_FOLDS = (
    "fold_batch_norm_into_conv",
    "fold_batch_norm_into_gemm",
    "fold_batch_norm_into_next_conv",
    "fold_batch_norm_into_next_gemm",
    "fold_batch_norm_through_concat",
    "fold_batch_norm_through_flatten",
    "fold_skip_into_conv",
)
"""Rules that take the scales of normalizations away, which one of the scores looks at."""


def settings(
    data: Any,
    plan: PrunePlan | None,
    targets: Mapping[str, float | None],
    *,
    score: str | None = None,
    recover: str | None = None,
    normalize: str = "measured",
    rounding: int | None = None,
    max_ratio: float | Mapping[str, float] = 0.9,
    keep: Sequence[str] = (),
    seed: int = 0,
    threads: int = 0,
) -> Settings:
    """The settings that the options of api_prune.prune come to; `targets` are those by kind.

    Raises BadInput for an option that can't be, or that lacks data.
    """
    has_data = data is not None
    chosen = score or ("reconstruction" if has_data else "magnitude")
    if plan is None:
        known_method(chosen, data=has_data)
    mended = known("recovery", recover or _usual_recovery(data), RECOVERIES)
    known("normalization", normalize, NORMALIZATIONS)
    _refuse_recovery(mended, data)
    if rounding is not None and rounding < 1:
        raise BadInput(f"channels can't be rounded to {rounding}", hint="give 1 or more, such as 8")
    caps = dict(max_ratio) if isinstance(max_ratio, Mapping) else {"*": max_ratio}
    for name, cap in caps.items():
        if not 0 < cap < 1:
            raise BadInput(
                f"the largest share of {name!r} can't be {cap:g}", hint="give one between 0 and 1"
            )
    return Settings(
        target=_target(plan, targets),
        score=chosen,
        recover=mended,
        normalize="global" if normalize == "measured" and not has_data else normalize,
        rounding=rounding,
        caps=caps,
        keep=tuple(keep),
        seed=seed,
        threads=threads,
    )


def sparsity_settings(
    data: Any,
    *,
    sparsity: float | str | None,
    cluster: int | None,
    score: str | None = None,
    recover: str | None = None,
    keep: Sequence[str] = (),
    threads: int = 0,
) -> compression.Settings:
    """The settings that the options of api_sparsify.sparsify come to.

    Raises BadInput for an option that can't be, or that lacks data.
    """
    if sparsity is None and cluster is None:
        raise BadInput(
            "there is nothing to do to the weights",
            hint="give --sparsity 0.5, --sparsity 2:4 or --cluster 16",
        )
    pattern = None if sparsity is None else Pattern.of(sparsity)
    count = None if cluster is None else known_count(cluster)
    chosen = known("score", score or SCORES[0 if data is not None else 1], SCORES)
    mended = known("recovery", recover or _usual_recovery(data), ("least-squares", "none"))
    if data is None and chosen == SCORES[0]:
        raise _no_samples("--score", chosen)
    _refuse_recovery(mended, data)
    return compression.Settings(pattern, count, chosen, mended != "none", tuple(keep), threads)


def _usual_recovery(data: Any) -> str:
    return "none" if data is None else "least-squares"


def _refuse_recovery(recover: str, data: Any) -> None:
    if recover == "none":
        return
    if data is None:
        raise _no_samples("--recover", recover)
    if isinstance(data, str) and data == RANDOM:
        raise BadInput(
            "noise says nothing about what the weights of a model do",
            hint="give samples of real inputs with --data, or take --score magnitude and no data",
        )


def _no_samples(option: str, name: str) -> BadInput:
    return BadInput(
        f"{option} {name} needs samples of real inputs, and there is no data",
        hint="give some with --data, or take --score magnitude and --recover none",
    )


def _target(plan: PrunePlan | None, targets: Mapping[str, float | None]) -> Target:
    if plan is None:
        return Target.of(**targets)
    if any(value is not None for value in targets.values()):
        raise BadInput("a plan has its own target", hint="leave out --macs and the like")
    return plan.target
