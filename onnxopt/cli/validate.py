"""`onnxopt validate`: do two models give the same numbers?"""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit
from onnxopt.cli.progress import Progress


@click.command("validate", short_help="Check that two models give the same outputs.")
@options.model_path("reference")
@options.model_path("candidate")
@click.option(
    "--level",
    type=click.Choice(["exact", "close"]),
    default="close",
    show_default=True,
    help="exact: the same bits; close: the same up to rounding.",
)
@options.shapes
@options.feeds
@options.runtime
@options.output
def command(reference: str, candidate: str, quiet: bool, as_json: bool, **asked: Any) -> int:
    """Run REFERENCE and CANDIDATE on the same inputs and compare every output.

    Both run with onnxruntime's own optimizations off. Exit code 1 means that they differ.
    """
    from onnxopt import api
    from onnxopt.report.pages import parity_page

    with Progress(quiet=quiet or as_json) as progress:
        progress.say("running both models")
        parity = api.validate(reference, candidate, **asked)
    emit(parity, lambda: parity_page(parity), as_json=as_json, quiet=quiet)
    return 0 if parity.passed else 1
