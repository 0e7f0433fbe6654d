"""`onnxopt optimize`: rewrite, prove, time, save, report."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import check_face, emit, write_report
from onnxopt.cli.progress import Progress


@click.command("optimize", short_help="Rewrite a model, prove it, time it, save it.")
@options.model_path("model")
@click.option("-o", "--output", metavar="PATH", help="Where to write the result.")
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
@click.option(
    "--freeze-inputs",
    is_flag=True,
    help="Make initializers that are also inputs constants, and inputs no longer.",
)
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
    "--external",
    type=click.Choice(["keep", "inline", "file"]),
    default="keep",
    show_default=True,
    help="Where weights go: as in the input, into the model, or into a file beside it.",
)
@click.option("--overwrite", is_flag=True, help="Let the output take the place of the input.")
@click.option("--report", "reports", multiple=True, metavar="PATH", help="Also write .md or .json.")
@click.option("--verbose", "-v", is_flag=True, help="Show every rule, reason and output.")
@options.output
def command(
    model: str,
    passes: tuple[str, ...],
    reports: tuple[str, ...],
    no_check: bool,
    no_bench: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Rewrite MODEL to be smaller and faster, prove that nothing changed, time it and save it.

    A step that breaks the model's interface, the checker or the numbers is taken back and named;
    the rest is kept. Without -o nothing is written.
    """
    for path in reports:
        check_face(path)
    from onnxopt import api
    from onnxopt.report.pages import report_page

    with Progress(quiet=quiet or as_json) as progress:
        result = api.optimize(
            model,
            passes=_load(passes),
            check=not no_check,
            bench=not no_bench,
            progress=progress.say,
            **asked,
        )
    report = result.report
    for path in reports:
        write_report(report, lambda: report_page(report, verbose=True), path)
    emit(report, lambda: report_page(report, verbose=verbose), as_json=as_json, quiet=quiet)
    if not report.passed:
        click.echo("error: the result does not agree with the model; it was not written", err=True)
    return 0 if report.passed else 1


def _load(names: tuple[str, ...]) -> list[Any]:
    if not names:
        return []
    from onnxopt.passes.foreign import load_pass

    return [load_pass(name) for name in names]
