"""`onnxopt optimize`: rewrite, prove, time, save, report."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.arguments import FIRST
from onnxopt.cli import compressing, options, quantizing
from onnxopt.cli.output import Telling, ended
from onnxopt.errors import BadInput


@click.command(
    "optimize",
    short_help="Rewrite a model, prove it, time it, save it.",
    cls=quantizing.Sectioned,
)
@options.model_path("model")
@options.written
@click.option(
    "--level",
    type=click.Choice(["clean", "exact", "close"]),
    default="close",
    show_default=True,
    help="clean: fold and clean up; exact: also rewrites that keep every bit; close: also rewrites"
    " that may round differently.",
)
@click.option(
    "--only", multiple=True, metavar="RULE", help="Run only this rule or pass; repeatable."
)
@click.option("--disable", multiple=True, metavar="RULE", help="Leave it out; repeatable.")
@click.option(
    "--enable", multiple=True, metavar="RULE", help="Run a rule that is off by itself; repeatable."
)
@options.freeze_inputs
@click.option(
    "--max-growth",
    type=options.share,
    metavar="SHARE",
    default="3%",
    show_default=True,
    help="How much of the file's size folding may add.",
)
@click.option("--opset", type=click.IntRange(min=1), help="Raise the model's opset to this.")
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="A pass of your own, such as a graphsurgeon function; repeatable.",
)
@options.shapes
@click.option("--no-check", is_flag=True, help="Leave the proof out.")
@click.option("--no-bench", is_flag=True, help="Leave the timing out.")
@options.feeds
@options.runtime
@click.option(
    "--quantize",
    is_flag=True,
    help="Then make it run in integers where that pays, as `onnxopt quantize` does; needs --data.",
)
@click.option(
    "--prune",
    type=compressing.target,
    metavar="[TARGET=]SHARE",
    help="First remove channels, down to this share of the MACs, as `onnxopt prune` does; or of"
    " TARGET, one of macs, params and latency. --max-drop then is what all steps together may lose,"
    " 3% unless given. Needs --data.",
)
@click.option(
    "--distill",
    type=click.FloatRange(min=0, min_open=True),
    metavar="EPOCHS",
    help="Let the model teach what pruning left, for so many passes over the data; needs torch.",
)
@quantizing.choices
@options.saving
@options.reporting
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    passes: tuple[str, ...],
    telling: Telling,
    no_check: bool,
    no_bench: bool,
    quantize: bool,
    prune: dict[str, float] | None,
    distill: float | None,
    **asked: Any,
) -> int:
    """Rewrite MODEL to be smaller and faster, prove that nothing changed, time it and save it.

    A step that breaks the model's interface, the checker or the numbers is taken back and named;
    the rest is kept. Without -o nothing is written. With --prune and --quantize so is each of them
    where it loses more than --max-drop, all taken together, or is not faster.
    """
    asked |= {"passes": _load(passes), "bench": not no_bench, "check": not no_check}
    if prune is not None or distill is not None:
        first = {name: asked.pop(name) for name in FIRST}
        _only_cpu(asked.pop("providers"))
        return compressing.carry_out(
            ctx, model, prune, distill, quantize=quantize, telling=telling, optimize=first, **asked
        )
    if quantize:
        first = {name: asked.pop(name) for name in FIRST}
        _only_cpu(asked.pop("providers"))
        return quantizing.carry_out(model, telling=telling, optimize=first, **asked)
    quantizing.refuse_without(ctx)
    return _optimized(model, telling, **{k: v for k, v in asked.items() if k not in _names(ctx)})


def _optimized(model: str, telling: Telling, **asked: Any) -> int:
    from onnxopt import api
    from onnxopt.report.pages import report_page

    with telling.progress() as progress:
        report = api.optimize(model, progress=progress.say, **asked).report
    telling.tell(report, report_page)
    what = "the result does not agree with the model; it was not written"
    return ended(report.passed, what)


def _names(ctx: click.Context) -> set[str | None]:
    """The parameters that are of no use where nothing is quantized."""
    return {each.name for each in ctx.command.params if isinstance(each, quantizing.Option)}


def _only_cpu(providers: tuple[str, ...]) -> None:
    if providers != ("CPUExecutionProvider",):
        raise BadInput(
            "what runs in integers is proven and timed on the CPU provider only",
            hint="leave --provider out; --target says where the model is to run",
        )


def _load(names: tuple[str, ...]) -> list[Any]:
    if not names:
        return []
    from onnxopt.passes.foreign import load_pass

    return [load_pass(name) for name in names]
