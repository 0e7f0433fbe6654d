"""`onnxopt quantize`: calibrate, plan, insert, prove, measure, decide, save, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import check_face, emit, write_report
from onnxopt.cli.progress import Progress
from onnxopt.errors import BadInput, BadOutput

METHODS = ["minmax", "average", "percentile", "entropy", "mse"]
TARGETS = "cpu, openvino, tensorrt, qnn or generic"


@click.command("quantize", short_help="Make a model run in integers where that pays.")
@options.model_path("model")
@click.option("-o", "--output", metavar="PATH", help="Where to write the result.")
@click.option(
    "--data",
    metavar="PATH|MODULE:FUNCTION|random",
    help="Samples of real inputs: .npz (keys are input names), .npy, a folder of them, or a"
    " function that gives dicts; or a folder of pictures with --preprocess. Each fifth run is kept"
    " apart to measure on. `random` makes noise up.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Samples a run takes from --data.",
)
@click.option(
    "--preprocess",
    metavar="PRESET|MODULE:FUNCTION",
    help="How pictures become inputs: imagenet, unit (0 to 1), symmetric (-1 to 1) or raw, with"
    " options such as unit,resize=256,crop=224,mean=0.5,std=0.2,bgr; or a function of uint8 pixels"
    " (height, width, 3).",
)
@options.seed
@click.option("--target", default="cpu", show_default=True, help=f"One of {TARGETS}.")
@click.option(
    "--metric",
    default="auto",
    show_default=True,
    metavar="NAME|MODULE:FUNCTION",
    help="How loss is measured: top1, agreement, sqnr, cosine, or a function of outputs and feeds"
    " that gives more for better; auto takes agreement for scores of classes, else sqnr.",
)
@click.option("--labels", metavar="PATH", help="For top1: an .npy with the class of each sample.")
@click.option(
    "--max-drop",
    type=options.share,
    metavar="SHARE",
    help="How much may be lost, such as 0.5%: of top1, of the cosine, as noise over signal for"
    " sqnr (0.005 is 23 dB). Without it 0.5%, and 1.5% for agreement.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="minmax",
    show_default=True,
    help="How the range of a value is chosen from the data.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100),
    default=99.99,
    show_default=True,
    help="What the percentile method keeps, in per cent.",
)
@click.option("--plan-only", metavar="PATH", help="Write the plan as JSON, and stop.")
@click.option("--plan", metavar="PATH", help="Carry out this plan, as --plan-only wrote it.")
@click.option("--strict", is_flag=True, help="Fail where a planned node does not run in integers.")
@click.option("--no-bench", is_flag=True, help="Leave the timing out of the decision.")
@click.option(
    "--keep-best", is_flag=True, help="Where the budget is missed, write the best found anyway."
)
@click.option("--cache", metavar="FOLDER", help="Keep ranges there, for the same model and data.")
@options.shapes
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Threads of a session; 0 leaves it to onnxruntime.",
)
@click.option(
    "--external",
    type=click.Choice(["keep", "inline", "file"]),
    default="keep",
    show_default=True,
    help="Where weights go: as in the input, into the model, or into a file beside it.",
)
@click.option("--overwrite", is_flag=True, help="Let the output take the place of the input.")
@click.option("--report", "reports", multiple=True, metavar="PATH", help="Also write .md or .json.")
@click.option("--verbose", "-v", is_flag=True, help="Show every node.")
@options.output
def command(
    model: str,
    reports: tuple[str, ...],
    plan_only: str | None,
    labels: str | None,
    no_bench: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Quantize MODEL to 8 bits where onnxruntime then really computes in integers, where that is
    faster, and as far as the accuracy holds.

    What comes out is never slower than the float model: where integers do not pay, it is the
    optimized float model. Exit code 1 means that the budget was missed, and nothing was written.
    """
    for path in reports:
        check_face(path)
    from onnxopt import api_quantize
    from onnxopt.report.quantization import quantization_page

    with Progress(quiet=quiet or as_json) as progress:
        result = api_quantize.quantize(
            model,
            labels=None if labels is None else _labels(labels),
            plan_only=plan_only is not None,
            bench=not no_bench,
            progress=lambda share, doing: progress.share(share, doing),
            **asked,
        )
    report = result.report
    if plan_only is not None:
        _write(plan_only, result.plan.to_json() + "\n")
    for path in reports:
        write_report(report, lambda: quantization_page(report, verbose=True), path)
    emit(report, lambda: quantization_page(report, verbose=verbose), as_json=as_json, quiet=quiet)
    return 0 if report.passed else _failed(report.verdict, bool(asked["keep_best"]))


def _failed(verdict: str, keep_best: bool) -> int:
    what = "the budget is missed" if verdict == "over budget" else "planned nodes stayed float"
    end = "" if keep_best else "; nothing was written, --keep-best writes the best found"
    click.echo(f"error: {what}{end}", err=True)
    return 1


def _labels(path: str) -> Any:
    from onnxopt.check.arrays import read_npy

    if not Path(path).is_file() or Path(path).suffix != ".npy":
        raise BadInput(f"there are no labels at {path}", hint="save them with numpy.save")
    return read_npy(Path(path))


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadOutput(f"the plan can't be written to {path}: {error.strerror}") from error
