"""`onnxopt sparsify`: zeros and palettes in weights, for other runtimes and for zipped files."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import check_face, emit, write_report
from onnxopt.cli.progress import Progress
from onnxopt.cli.quantizing import read_labels
from onnxopt.errors import BadInput


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
@options.data(
    "Samples of real inputs, no labels: .npz (keys are input names), .npy, a folder of them, a"
    " folder of pictures with --preprocess, or a function that gives dicts. Each fifth run is kept"
    " apart to measure on."
)
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
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME",
    help="Leave this node or weight as it is; patterns such as '*head*'; repeatable.",
)
@click.option(
    "--metric",
    default="auto",
    show_default=True,
    metavar="NAME|MODULE:FUNCTION",
    help="How the loss is measured: top1, agreement, sqnr, cosine, or a function.",
)
@click.option("--labels", metavar="PATH", help="For top1: an .npy with the class of each sample.")
@click.option(
    "--max-drop",
    type=options.share,
    metavar="SHARE",
    help="Write nothing where more is lost, such as 2%; without it anything goes.",
)
@options.shapes
@options.threads
@options.saving
@options.reporting
def command(
    model: str,
    reports: tuple[str, ...],
    labels: str | None,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Put zeros into MODEL's weights, or let them take a few values only.

    onnxruntime's CPU provider gains nothing from either: file, work and time stay as they are. It
    is for runtimes with kernels for sparse weights, and for files that are stored or sent
    compressed. To make a model faster in onnxruntime, see `onnxopt prune`. Exit code 1 means that
    more was lost than --max-drop allows, and nothing was written.
    """
    for path in reports:
        check_face(path)
    if asked["output"] is None:
        raise BadInput("there is nowhere to write the result to", hint="give -o OUT")
    from onnxopt import api_sparsify
    from onnxopt.report.sparsity import sparsity_page

    with Progress(quiet=quiet or as_json) as progress:
        result = api_sparsify.sparsify(
            model,
            labels=None if labels is None else read_labels(labels),
            progress=lambda share, doing: progress.share(share, doing),
            **asked,
        )
    report = result.report
    for path in reports:
        write_report(report, lambda: sparsity_page(report, verbose=True), path)
    emit(report, lambda: sparsity_page(report, verbose=verbose), as_json=as_json, quiet=quiet)
    if report.passed:
        return 0
    click.echo("error: the budget is missed; nothing was written", err=True)
    return 1
