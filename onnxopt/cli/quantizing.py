"""What `quantize` and `optimize --quantize` share: the options, and the way from them to a file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit, write_report, write_text
from onnxopt.cli.progress import Progress
from onnxopt.errors import BadInput

if TYPE_CHECKING:
    from onnxopt.report.quantization import QuantizationReport

Command = TypeVar("Command", bound=Callable[..., Any])

MODES = ["static", "dynamic", "weights", "fp16", "bf16", "auto"]
METHODS = ["minmax", "average", "percentile", "entropy", "mse"]
TARGETS = "cpu, openvino, tensorrt, qnn, qnn16 (activations of 16 bits) or generic"
WHERE = "PATH|MODULE:FUNCTION|random"
DATA = (
    "Samples of real inputs: .npz (keys are input names), .npy, a folder of them, or a function"
    " that gives dicts; or a folder of pictures with --preprocess. Each fifth run is kept apart to"
    " measure on. `random` makes noise up."
)


class Option(click.Option):
    """An option that has a meaning only where a model is quantized."""


class Sectioned(click.Command):
    """A command whose help shows the options of quantization under a heading of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, ours in (("Options", False), ("With --quantize", True)):
            rows = [
                row
                for each in self.get_params(ctx)
                if isinstance(each, Option) is ours and (row := each.get_help_record(ctx))
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


def choices(command: Command) -> Command:
    """How a model is to be quantized; see refuse_without."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default="static",
        show_default=True,
        help="static: integers between pairs with ranges from --data; dynamic: integer products"
        " whose inputs are coded as the model runs; weights: weights as codes, for size; fp16,"
        " bf16: 16-bit floats, for size and GPUs; auto: the fastest of what fits a CPU.",
        cls=Option,
    ),
    click.option(
        "--bits",
        type=int,
        help="For --mode weights: bits of a weight, 8 or 4. [default: 8]",
        cls=Option,
    ),
    click.option(
        "--block",
        type=int,
        help="For --mode weights: how many weights share a scale, a power of two from 16 on, or 0"
        " for a channel. [default: 0, and 32 with 4 bits]",
        cls=Option,
    ),
    click.option(
        "--target", default="cpu", show_default=True, help=f"One of {TARGETS}.", cls=Option
    ),
    click.option(
        "--metric",
        default="auto",
        show_default=True,
        metavar="NAME|MODULE:FUNCTION",
        help="How loss is measured: top1, agreement, sqnr, cosine, or a function of outputs and"
        " feeds that gives more for better; auto takes agreement for scores of classes, else sqnr.",
        cls=Option,
    ),
    click.option(
        "--labels",
        metavar="PATH",
        help="For top1: an .npy with the class of each sample.",
        cls=Option,
    ),
    click.option(
        "--max-drop",
        type=options.share,
        metavar="SHARE",
        help="How much may be lost, such as 0.5%: of top1, of the cosine, as noise over signal for"
        " sqnr (0.005 is 23 dB). Without it 0.5%, and 0.7% of agreement.",
        cls=Option,
    ),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="mse",
        show_default=True,
        help="How the range of a value is chosen from the data.",
        cls=Option,
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(50, 100),
        default=99.99,
        show_default=True,
        help="What the percentile method keeps, in per cent.",
        cls=Option,
    ),
    click.option(
        "--plan-only", metavar="PATH", help="Write the plan as JSON, and stop.", cls=Option
    ),
    click.option(
        "--plan", metavar="PATH", help="Carry out this plan, as --plan-only wrote it.", cls=Option
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Fail where a planned node does not run in integers.",
        cls=Option,
    ),
    click.option(
        "--sensitivity",
        is_flag=True,
        help="Measure what each node costs by itself, for the report; --report with .html does.",
        cls=Option,
    ),
    click.option(
        "--keep-best",
        is_flag=True,
        help="Where the budget is missed, write the best found anyway.",
        cls=Option,
    ),
    click.option(
        "--cache",
        metavar="FOLDER",
        help="Keep ranges there, for the same model and data.",
        cls=Option,
    ),
]


def refuse_without(ctx: click.Context, allowed: Collection[str] = ()) -> None:
    """Raise BadInput for an option of quantization, but for those allowed, where none is done."""
    for each in ctx.command.params:
        if isinstance(each, Option) and each.name is not None and each.name not in allowed:
            source = ctx.get_parameter_source(each.name)
            if source is click.core.ParameterSource.COMMANDLINE:
                raise BadInput(
                    f"{each.opts[0]} is for quantization, and none is asked for",
                    hint="add --quantize, or use `onnxopt quantize`",
                )


def carry_out(
    model: str,
    *,
    plan_only: str | None,
    labels: str | None,
    reports: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    as_json: bool,
    sensitivity: bool,
    **asked: Any,
) -> int:
    """Quantize, write and tell what was asked for; the exit code. `asked` goes to the API."""
    from onnxopt import api_quantize
    from onnxopt.report.quantization_page import quantization_page

    with Progress(quiet=quiet or as_json) as progress:
        result = api_quantize.quantize(
            model,
            labels=None if labels is None else read_labels(labels),
            plan_only=plan_only is not None,
            sensitivity=sensitivity or any(path.lower().endswith(".html") for path in reports),
            progress=lambda share, doing: progress.share(share, doing),
            **asked,
        )
    report = result.report
    if plan_only is not None:
        write_text(plan_only, result.plan.to_json() + "\n")
    for path in reports:
        write_report(report, lambda: quantization_page(report, verbose=True), path)
    emit(report, lambda: quantization_page(report, verbose=verbose), as_json=as_json, quiet=quiet)
    return 0 if report.passed else _failed(report, bool(asked["keep_best"]))


def _failed(report: QuantizationReport, keep_best: bool) -> int:
    what = (
        "the budget is missed" if report.verdict == "over budget" else "planned nodes stayed float"
    )
    end = "" if keep_best else "; nothing was written, --keep-best writes the best found"
    if not report.agrees:
        what, end = "the optimized model does not agree with the model", "; nothing was written"
    click.echo(f"error: {what}{end}", err=True)
    return 1


def read_labels(path: str) -> Any:
    """The class of each sample, from an .npy. Raises BadInput where there is none."""
    from onnxopt.check.arrays import read_npy

    if not Path(path).is_file() or Path(path).suffix != ".npy":
        raise BadInput(f"there are no labels at {path}", hint="save them with numpy.save")
    return read_npy(Path(path))
