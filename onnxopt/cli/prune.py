"""`onnxopt prune`: score, plan, remove, prove, recover, measure, save, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import check_face, emit, write_report, write_text
from onnxopt.cli.progress import Progress
from onnxopt.errors import BadInput

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
@options.data(
    "Samples of real inputs, no labels: .npz (keys are input names), .npy, a folder of them, a"
    " folder of pictures with --preprocess, or a function that gives dicts. Each fifth run is kept"
    " apart to measure on."
)
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
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME",
    help="Leave this group, node or constant whole; patterns such as '*head*'; repeatable.",
)
@click.option(
    "--round",
    "rounding",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Channels left are a multiple of this; 8 suits AVX2, 16 AVX-512, 4 is the least.",
)
@click.option(
    "--max-ratio",
    multiple=True,
    metavar="[NAME=]SHARE",
    callback=_ratios,
    help="The largest share that any group, or those of that name, may give; repeatable. [0.9]",
)
@click.option("--plan-only", metavar="PATH", help="Write the plan as JSON, and stop.")
@click.option("--plan", metavar="PATH", help="Carry out this plan, as --plan-only wrote it.")
@click.option("--explain", is_flag=True, help="List what can be pruned, what not and why; stop.")
@click.option(
    "--metric",
    default="auto",
    show_default=True,
    metavar="NAME|MODULE:FUNCTION",
    help="How the loss is measured: top1, agreement, sqnr, cosine, or a function.",
)
@click.option("--labels", metavar="PATH", help="For top1: an .npy with the class of each sample.")
@click.option(
    "--max-drop",
    type=options.share,
    metavar="SHARE",
    help="Write nothing where more is lost, such as 2%; without it anything goes.",
)
@click.option(
    "--freeze-inputs", is_flag=True, help="Make initializers that are also inputs constants."
)
@click.option("--no-bench", is_flag=True, help="Do not time the models.")
@options.shapes
@options.threads
@options.saving
@options.reporting
def command(
    model: str,
    explain: bool,
    reports: tuple[str, ...],
    plan_only: str | None,
    labels: str | None,
    no_bench: bool,
    freeze_inputs: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Remove whole channels, heads and hidden units from MODEL, down to a target.

    Every target is a share of what the optimized model has. Exit code 1 means that more was lost
    than --max-drop allows, and nothing was written.
    """
    for path in reports:
        check_face(path)
    if explain:
        return _explain(
            model, asked, reports, freeze_inputs, verbose=verbose, quiet=quiet, as_json=as_json
        )
    if asked["output"] is None and plan_only is None:
        raise BadInput("there is nowhere to write the result to", hint="give -o OUT")
    from onnxopt import api_prune
    from onnxopt.report.pruning_page import pruning_page

    with Progress(quiet=quiet or as_json) as progress:
        result = api_prune.prune(
            model,
            labels=None if labels is None else _labels(labels),
            plan_only=plan_only is not None,
            bench=not no_bench,
            optimize={"freeze_inputs": freeze_inputs},
            progress=lambda share, doing: progress.share(share, doing),
            **asked,
        )
    report = result.report
    if plan_only is not None:
        write_text(plan_only, result.plan.to_json() + "\n")
    for path in reports:
        write_report(report, lambda: pruning_page(report, verbose=True), path)
    emit(report, lambda: pruning_page(report, verbose=verbose), as_json=as_json, quiet=quiet)
    if report.passed:
        return 0
    click.echo("error: the budget is missed; nothing was written", err=True)
    return 1


def _explain(
    model: str,
    asked: dict[str, Any],
    reports: tuple[str, ...],
    freeze: bool,
    *,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    from onnxopt import api_prune
    from onnxopt.report.pruning_page import explanation_page

    shapes = {key: asked[key] for key in ("keep", "input_shapes", "dims")}
    found = api_prune.explain(model, freeze_inputs=freeze, **shapes)
    for path in reports:
        write_report(found, lambda: explanation_page(found, model, verbose=True), path)
    emit(
        found, lambda: explanation_page(found, model, verbose=verbose), as_json=as_json, quiet=quiet
    )
    return 0


def _labels(path: str) -> Any:
    from onnxopt.check.arrays import read_npy

    if not Path(path).is_file() or Path(path).suffix != ".npy":
        raise BadInput(f"there are no labels at {path}", hint="save them with numpy.save")
    return read_npy(Path(path))
