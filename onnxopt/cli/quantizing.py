"""What `quantize` and `optimize --quantize` share: the options, and the way from them to a file."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import Telling, ended, write_text
from onnxopt.errors import BadInput

if TYPE_CHECKING:
    from onnxopt.report.quantization import QuantizationReport

MODES = ["static", "dynamic", "weights", "fp16", "bf16", "auto"]
METHODS = ["minmax", "average", "percentile", "entropy", "mse"]
TARGETS = "cpu, openvino, tensorrt, qnn, qnn16 (activations of 16 bits) or generic"
WHERE = "PATH|MODULE:FUNCTION|random"
DATA = f"{options.APART} `random` makes noise up."


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


choices = options.group(
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
    options.measuring(
        "How much may be lost, such as 0.5%: of top1, of the cosine, as noise over signal for"
        " sqnr (0.005 is 23 dB). Without it 0.5%, and 0.7% of agreement.",
        Option,
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
        "--weights",
        metavar="NAME,NAME,...",
        default="order,centre,saturation,smoothing,rounding,bias",
        show_default=True,
        callback=lambda ctx, param, text: [each for each in text.split(",") if each],
        help="How weights are treated: each of these, and equalize, can be left out or asked for.",
        cls=Option,
    ),
    options.plans(Option),
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
)
"""How a model is to be quantized; see refuse_without."""


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
    telling: Telling,
    sensitivity: bool,
    **asked: Any,
) -> int:
    """Quantize, write and tell what was asked for; the exit code. `asked` goes to the API."""
    from onnxopt import api_quantize
    from onnxopt.report.quantization_page import quantization_page

    with telling.progress() as progress:
        result = api_quantize.quantize(
            model,
            plan_only=plan_only is not None,
            sensitivity=sensitivity or telling.wants_html,
            progress=progress.share,
            **asked,
        )
    if plan_only is not None:
        write_text(plan_only, result.plan.to_json() + "\n")
    telling.tell(result.report, quantization_page)
    return ended(result.report.passed, _complaint(result.report, bool(asked["keep_best"])))


def _complaint(report: QuantizationReport, keep_best: bool) -> str:
    if not report.agrees:
        return "the optimized model does not agree with the model; nothing was written"
    what = (
        "the budget is missed" if report.verdict == "over budget" else "planned nodes stayed float"
    )
    return what if keep_best else f"{what}; nothing was written, --keep-best writes the best found"
