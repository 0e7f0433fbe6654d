"""`onnxopt bench`: how fast is a model, and how much faster than another?"""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit
from onnxopt.cli.progress import Progress


@click.command("bench", short_help="Time models against the first one.")
@click.argument("models", type=click.Path(), nargs=-1, required=True, metavar="A [B ...]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Time to take at most; it stops earlier where the verdict is clear.",
)
@options.shapes
@options.feeds
@options.runtime
@options.output
def command(models: tuple[str, ...], quiet: bool, as_json: bool, **asked: Any) -> None:
    """Time A and every B on onnxruntime, in turns, in fresh sessions.

    A is also timed against itself; B is faster or slower only where it is clear of that noise.
    """
    from onnxopt import api
    from onnxopt.report.pages import timing_page

    with Progress(quiet=quiet or as_json) as progress:
        timing = api.bench(models, peak_memory=True, progress=progress.share, **asked)
    emit(timing, lambda: timing_page(timing), as_json=as_json, quiet=quiet)
