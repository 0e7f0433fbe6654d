"""`optimize --prune`: prune, teach, quantize, each step kept or rolled back, under one budget."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import quantizing
from onnxopt.cli.output import Telling, ended
from onnxopt.errors import BadInput

TARGETS = ("macs", "params", "latency")
_BUDGET = ("metric", "labels", "max_drop")
_ALONE = {"plan": "--plan", "plan_only": "--plan-only", "keep_best": "--keep-best"}
_QUANTIZE = (
    "mode", "target", "method", "percentile", "weights", "bits", "block", "strict", "sensitivity",
    "cache",
)  # fmt: skip


def target(text: str) -> dict[str, float]:
    """`0.75` as {"macs": 0.75}, and `latency=0.7` as it says."""
    name, equals, share = text.rpartition("=")
    kind = name if equals else "macs"
    try:
        number = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        kind = ""
    if kind not in TARGETS:
        raise click.BadParameter(f"{text!r} is not [TARGET=]SHARE such as 0.75 or latency=0.7")
    return {kind: number}


def carry_out(
    ctx: click.Context,
    model: str,
    prune: dict[str, float] | None,
    distill: float | None,
    *,
    quantize: bool,
    telling: Telling,
    **asked: Any,
) -> int:
    """Do what was asked for, write and tell; the exit code. `asked` goes to the API."""
    if not quantize:
        quantizing.refuse_without(ctx, _BUDGET)
    for name, option in _ALONE.items():
        if asked.pop(name):
            raise BadInput(
                f"{option} is for one step, and several are asked for",
                hint="take them one by one: `onnxopt prune`, then `onnxopt quantize`",
            )
    chosen = {name: asked.pop(name) for name in _QUANTIZE}
    chosen["sensitivity"] |= telling.wants_html
    from onnxopt import api_compress
    from onnxopt.report.compression import compression_page

    with telling.progress() as progress:
        report = api_compress.compress(
            model,
            prune=prune,
            distill=False if distill is None else {"epochs": distill},
            quantize=chosen if quantize else False,
            progress=progress.share,
            **asked,
        ).report
    telling.tell(report, compression_page)
    what = "the budget is missed, or planned nodes stayed float"
    if not report.optimization.passed:
        what = "the optimized model does not agree with the model"
    return ended(report.passed, f"{what}; nothing was written")
