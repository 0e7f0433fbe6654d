"""`onnxopt rules`: the catalogue, and the page of one rule."""

from __future__ import annotations

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit


@click.command("rules", short_help="List the rewrite rules, or explain one.")
@click.argument("name", required=False)
@options.output
def command(name: str | None, quiet: bool, as_json: bool) -> None:
    """List every rule; with NAME, show what that rule does, when, and how exactly."""
    from onnxopt import catalogue

    if name is None:
        entries = catalogue.entries()
        emit(entries, lambda: catalogue.overview(entries), as_json=as_json, quiet=quiet)
    else:
        entry = catalogue.entry(name)
        emit(entry, lambda: catalogue.page(entry), as_json=as_json, quiet=quiet)
