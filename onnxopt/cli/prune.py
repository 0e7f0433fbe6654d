"""`onnxopt prune`: score, plan, remove, prove, recover, measure, save, report."""

from __future__ import annotations

import functools
from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import Telling, ended, need_output, write_text

SCORES = (
    "reconstruction, activation, magnitude, magnitude-l1, batchnorm, fpgm, taylor (needs torch) or"
    " random"
)


def _ratios(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    """`0.5` and `NAME=0.3` as shares by pattern."""
    found = {"*": 0.9}
    for text in given:
        name, _, share = text.rpartition("=")
        try:
            found[name or "*"] = float(share)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not SHARE or NAME=SHARE such as 0.5") from None
    return found


@click.command("prune", short_help="Remove channels, and win the accuracy back without labels.")
@options.model_path("model")
@options.written
@click.option("--macs", type=float, metavar="SHARE", help="Keep this share of the MACs.")
@click.option("--params", type=float, metavar="SHARE", help="Keep this share of the parameters.")
@click.option(
    "--latency",
    type=float,
    metavar="SHARE",
    help="Keep this share of the time of a run, by measured times of its nodes.",
)
@click.option("--ratio", type=float, metavar="SHARE", help="Remove this share of each group.")
@click.option("--threshold", type=float, metavar="SCORE", help="Remove what scores less.")
@options.data(options.APART)
@click.option("--score", metavar="NAME", help=f"How channels are ranked: {SCORES}.")
@click.option(
    "--recover",
    type=click.Choice(["least-squares", "distill", "bias", "none"]),
    help="How accuracy is won back; least-squares where there is data, distill needs torch.",
)
@click.option(
    "--normalize",
    type=click.Choice(["measured", "global", "uniform"]),
    default="measured",
    show_default=True,
    help="How layers are compared: by what cutting each does to the outputs, by their scores, or"
    " not at all.",
)
@options.keep("Leave this group, node or constant whole")
@click.option(
    "--round",
    "rounding",
    type=click.IntRange(min=1),
    help="Channels left are a multiple of this; 16 suits AVX-512, 4 is the least. "
    "[8, or 4 for groups under 64]",
)
@click.option(
    "--max-ratio",
    multiple=True,
    metavar="[NAME=]SHARE",
    callback=_ratios,
    help="The largest share that any group, or those of that name, may give; repeatable. [0.9]",
)
@options.plans()
@click.option("--explain", is_flag=True, help="List what can be pruned, what not and why; stop.")
@options.measuring(options.NO_LIMIT)
@options.freeze_inputs
@click.option("--no-bench", is_flag=True, help="Leave the timing out.")
@options.shapes
@options.threads
@options.saving
@options.reporting
def command(
    model: str,
    explain: bool,
    plan_only: str | None,
    no_bench: bool,
    freeze_inputs: bool,
    telling: Telling,
    **asked: Any,
) -> int:
    """Remove whole channels, heads and hidden units from MODEL, down to a target.

    Every target is a share of what the optimized model has. Exit code 1 means that more was lost
    than --max-drop allows, and nothing was written.
    """
    if explain:
        return _explain(model, asked, freeze_inputs, telling)
    if plan_only is None:
        need_output(asked["output"])
    from onnxopt import api_prune
    from onnxopt.report.pruning_page import pruning_page

    with telling.progress() as progress:
        result = api_prune.prune(
            model,
            plan_only=plan_only is not None,
            bench=not no_bench,
            optimize={"freeze_inputs": freeze_inputs},
            progress=progress.share,
            **asked,
        )
    if plan_only is not None:
        write_text(plan_only, result.plan.to_json() + "\n")
    telling.tell(result.report, pruning_page)
    return ended(result.report.passed, "the budget is missed; nothing was written")


def _explain(model: str, asked: dict[str, Any], freeze: bool, telling: Telling) -> int:
    from onnxopt import api_prune
    from onnxopt.report.pruning_page import explanation_page

    shapes = {key: asked[key] for key in ("keep", "input_shapes", "dims")}
    found = api_prune.explain(model, freeze_inputs=freeze, **shapes)
    telling.tell(found, functools.partial(explanation_page, source=model))
    return 0
