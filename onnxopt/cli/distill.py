"""`onnxopt distill`: a teacher's answers train a student on samples without labels."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options
from onnxopt.cli.output import Telling
from onnxopt.errors import BadInput

LOSSES = ["auto", "kl", "mse", "cosine"]
DATA = f"Samples of real inputs, no labels: {options.FORMS}. A fifth is kept apart."


@click.command("distill", short_help="Let a model's answers train a smaller one.")
@options.model_path("teacher")
@options.model_path("student")
@options.written
@click.option("--data", metavar="PATH|MODULE:FUNCTION", help=DATA)
@options.preprocess
@click.option(
    "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Samples a step."
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="auto",
    show_default=True,
    help="Between outputs: kl for scores of classes, mse over the teacher's variance, or cosine.",
)
@click.option(
    "--temperature",
    type=float,
    help="How soft the classes are made for kl; more shows which classes are alike."
    " [by how sure the teacher is]",
)
@click.option(
    "--match",
    "matches",
    multiple=True,
    metavar="TEACHER=STUDENT|same|auto|none",
    help="Inner values that are to be alike too, by their names; repeatable. same (the default)"
    " takes some of one name that nearly are already; auto some of one name and shape, or else of"
    " one shape.",
)
@click.option(
    "--match-weight",
    type=float,
    default=1.0,
    show_default=True,
    help="What inner values count beside the outputs.",
)
@click.option(
    "--epochs",
    type=float,
    help="Passes over the data; without a length a fixed amount of work, about 10 to 15 minutes on"
    " two cores, in 5 to 150 passes.",
)
@click.option("--minutes", type=float, help="Time to train for.")
@click.option("--steps", type=int, help="Batches to train for.")
@click.option(
    "--lr",
    "learning_rate",
    type=float,
    help="The peak learning rate, as a share of each weight's own size; without it 5e-4 for few"
    " samples, up to 1.5e-3 for thousands.",
)
@click.option(
    "--augment",
    default="auto",
    show_default=True,
    metavar="NAMES|MODULE:FUNCTION",
    help="How samples are varied: flip, crop, colour, shift, noise, mixup and cut with commas"
    " between them, none, or a function of a feed and a random generator. auto varies pictures in"
    " all of these ways but shift and noise.",
)
@click.option(
    "--held",
    type=options.share,
    default="20%",
    show_default=True,
    help="The share of samples kept apart, by which the best weights are chosen.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Stop after so many looks (of twenty) without better weights; 0 never does.",
)
@click.option(
    "--freeze", multiple=True, metavar="NAME", help="A constant to leave as it is; repeatable."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@options.threads
@options.seed
@click.option("--checkpoint", metavar="PATH", help="A file to go on from after an interrupt.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it is there.")
@options.saving
@options.reporting
def command(
    teacher: str,
    student: str,
    matches: tuple[str, ...],
    telling: Telling,
    **asked: Any,
) -> int:
    """Train STUDENT to answer as TEACHER does, on samples without labels.

    The student may be a pruned or quantized model or one of another architecture; its graph stays
    as it is, only its weights change. Needs torch: pip install 'onnxopt[distill]'. Ctrl-C ends the
    training early and keeps the best weights seen.
    """
    match = _match(matches)
    from onnxopt import api_distill
    from onnxopt.report.distillation import distillation_page

    with telling.progress() as progress:
        result = api_distill.distill(
            teacher,
            student,
            match=match,
            progress=progress.share,
            **asked,
        )
    telling.tell(result.report, distillation_page)
    return _ended(result.report.stopped, asked["output"], asked["checkpoint"])


def _ended(stopped: str, output: str | None, checkpoint: str | None) -> int:
    """The exit code, with a word on stderr where the training did not end by itself."""
    kept = f"the best weights so far are in {output}" if output else "nothing was written"
    if stopped == "diverged":
        click.echo(f"error: the loss was not finite any more; {kept}", err=True)
        click.echo("  hint: take a smaller --lr", err=True)
        return 1
    if stopped == "interrupted":
        more = f"; --resume goes on from {checkpoint}" if checkpoint else ""
        click.echo(f"interrupted: {kept}{more}", err=True)
        return 130
    return 0


def _match(texts: tuple[str, ...]) -> str | list[tuple[str, str]]:
    if not texts:
        return "same"
    for word in ("same", "auto", "none"):
        if word in texts:
            if len(texts) > 1:
                raise BadInput(f"--match {word} stands alone", hint="leave it or the names out")
            return [] if word == "none" else word
    pairs = []
    for text in texts:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise BadInput(
                f"--match {text!r} is no pair of names", hint="write TEACHER=STUDENT, or auto"
            )
        pairs.append((left, right))
    return pairs
