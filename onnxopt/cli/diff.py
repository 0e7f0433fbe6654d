"""`onnxopt diff`: what changed between two models, by name?"""

from __future__ import annotations

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit


@click.command("diff", short_help="Show what differs between two models, by name.")
@options.model_path("a")
@options.model_path("b")
@click.option("--verbose", "-v", is_flag=True, help="Show every difference.")
@options.output
def command(a: str, b: str, verbose: bool, quiet: bool, as_json: bool) -> None:
    """Compare the graphs of A and B: inputs, outputs, nodes, weights and metadata, by name."""
    from onnxopt import io
    from onnxopt.report.difference import difference
    from onnxopt.report.difference_page import difference_page

    found = difference(io.load(a), io.load(b), names=(a, b))
    emit(found, lambda: difference_page(found, verbose=verbose), as_json=as_json, quiet=quiet)
