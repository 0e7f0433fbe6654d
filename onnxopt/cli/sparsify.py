"""`onnxopt sparsify`: zeros and palettes in weights, for other runtimes and for zipped files."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import Telling, ended, need_output


@click.command("sparsify", short_help="Put zeros or few values into weights, for other runtimes.")
@options.model_path("model")
@options.written
@click.option(
    "--sparsity",
    metavar="SHARE|2:4",
    help="Set this share of each layer's weights to 0, such as 0.5; 2:4 sets two of every four"
    " neighbouring inputs to 0, as TensorRT's sparse kernels want them.",
)
@click.option(
    "--cluster",
    type=int,
    metavar="COUNT",
    help="Let the weights of a tensor take so many values at most, such as 16 or 256.",
)
@options.data(options.APART)
@click.option(
    "--score",
    type=click.Choice(["reconstruction", "magnitude"]),
    help="Which weights go: those that the others can make up for (with data), or the smallest.",
)
@click.option(
    "--recover",
    type=click.Choice(["least-squares", "none"]),
    help="Whether the weights that stay make up for those that go; they do where there is data.",
)
@options.keep("Leave this node or weight as it is")
@options.measuring(options.NO_LIMIT)
@options.shapes
@options.threads
@options.saving
@options.reporting
def command(model: str, telling: Telling, **asked: Any) -> int:
    """Put zeros into MODEL's weights, or let them take a few values only.

    onnxruntime's CPU provider gains nothing from either: file, work and time stay as they are. It
    is for runtimes with kernels for sparse weights, and for files that are stored or sent
    compressed. To make a model faster in onnxruntime, see `onnxopt prune`. Exit code 1 means that
    more was lost than --max-drop allows, and nothing was written.
    """
    need_output(asked["output"])
    from onnxopt import api_sparsify
    from onnxopt.report.sparsity import sparsity_page

    with telling.progress() as progress:
        report = api_sparsify.sparsify(model, progress=progress.share, **asked).report
    telling.tell(report, sparsity_page)
    return ended(report.passed, "the budget is missed; nothing was written")
