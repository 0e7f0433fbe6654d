"""`onnxopt inspect`: what is in a model, and what would block the optimizer?"""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import emit


@click.command("inspect", short_help="Show what is in a model and what blocks the optimizer.")
@options.model_path("model")
@options.shapes
@options.output
def command(model: str, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Show what MODEL is made of: inputs, outputs, operators, MACs, types, dynamic dims, files.

    It also says what would block the optimizer, and what to do about it.
    """
    from onnxopt import api
    from onnxopt.report.inspection_page import inspection_page

    found = api.inspect(model, **asked)
    emit(found, lambda: inspection_page(found), as_json=as_json, quiet=quiet)
