"""The record of a distillation, and what it says on a page: the course, the gain, the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.page import (
    Block,
    Curve,
    Figure,
    Line,
    Page,
    Series,
    Summary,
    Tone,
    change_text,
    count_text,
    listing,
    plural,
    section,
    table,
)
from onnxopt.report.record import Record, Versions

if TYPE_CHECKING:
    from onnxopt.check.metric import Score

_ENDS = {
    "done": "it ran to its end",
    "early": "it ended early: the held samples showed nothing better any more",
    "interrupted": "it was interrupted",
    "diverged": "its loss was not finite any more",
}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What was seen after a step: losses on the training batches since the last look and on the
    held samples, and the learning rate.
    """

    step: int
    seconds: float
    training: float | None
    held: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Pairing:
    """A value of the teacher, the student's that followed it, and the loss between them."""

    teacher: str
    student: str
    loss: str
    inner: bool = False


@dataclass(frozen=True, slots=True)
class DistillReport(Record):
    """What `distill` did to one student.

    `stopped` is "done", "early", "interrupted" or "diverged". `before` and `after` say how near
    the student is to its teacher on the samples that were kept apart; `weights` are the constants
    that were trained, `coded` those of them that are kept as integers, `numbers` their elements.
    """

    teacher: str
    student: str
    output: str
    stopped: str
    curve: tuple[CurvePoint, ...]
    best: CurvePoint
    before: Score
    after: Score
    pairs: tuple[Pairing, ...]
    weights: int
    coded: int
    numbers: int
    training_samples: int
    held_samples: int
    steps: int
    torch: str
    device: str
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Whether some weights were better than those it began with."""
        return self.best.step > 0

    @property
    def passed(self) -> bool:
        """False where the loss was not finite any more."""
        return self.stopped != "diverged"


def distillation_page(report: DistillReport, *, verbose: bool = False) -> Page:
    """How near the student came, the curve, what was matched, and what is good to know."""
    title = f"{report.teacher} teaches {report.student} → {report.output}"
    return (
        *section(title, [_summary(report), *_scores(report)]),
        *section("Loss", [*_curve(report), *(_looks(report) if verbose else [])]),
        *section("What followed what", _pairs(report, verbose)),
        *section("Good to know", [Line(note) for note in (*report.notes, _about(report))]),
    )


def _summary(report: DistillReport) -> Block:
    first = report.curve[0].held
    if report.improved:
        text = f"The loss on held samples fell from {first:.4g} to {report.best.held:.4g}"
    else:
        text = "No weights were better than the student's own, which were kept"
    tone: Tone = (
        "good" if report.improved and report.passed else "bad" if not report.passed else "plain"
    )
    figure = Figure(
        "loss on held samples",
        f"{first:.4g}",
        f"{report.best.held:.4g}",
        change_text(first, report.best.held),
    )
    return Summary(f"{text}; {_ENDS[report.stopped]}.", tone, (figure,))


def _scores(report: DistillReport) -> list[Block]:
    before, after = report.before, report.after
    return table(
        ("against the teacher", ">before", ">after", ">samples"),
        [(before.metric, f"{before.candidate:.4g}", f"{after.candidate:.4g}", before.samples)],
    )


def _curve(report: DistillReport) -> list[Block]:
    held = tuple((float(point.step), point.held) for point in report.curve)
    training = tuple(
        (float(point.step), point.training) for point in report.curve if point.training is not None
    )
    series = [Series("held samples", held)]
    if training:
        series.append(Series("training, inner values included", training))
    return [Curve("step", "loss", tuple(series))]


def _looks(report: DistillReport) -> list[Block]:
    rows = [
        (
            point.step,
            f"{point.seconds:.0f}",
            "" if point.training is None else f"{point.training:.4g}",
            f"{point.held:.4g}",
            f"{point.learning_rate:.2g}",
        )
        for point in report.curve
    ]
    return table((">step", ">seconds", ">training", ">held", ">rate"), rows)


def _pairs(report: DistillReport, verbose: bool) -> list[Block]:
    outputs = [pair for pair in report.pairs if not pair.inner]
    inner = [pair for pair in report.pairs if pair.inner]
    shown = report.pairs if verbose else outputs
    blocks = table(("teacher", "student", "loss"), [(p.teacher, p.student, p.loss) for p in shown])
    if inner and not verbose:
        names = listing([pair.student for pair in inner])
        blocks.append(Line(f"And {plural(len(inner), 'inner value')}: {names}.", "quiet"))
    return blocks


def _about(report: DistillReport) -> str:
    codes = f", {report.coded} of them kept as integers" if report.coded else ""
    return (
        f"{plural(report.weights, 'weight')} ({count_text(report.numbers)} numbers{codes}) were"
        f" trained in {plural(report.steps, 'step')} on"
        f" {plural(report.training_samples, 'sample')} with torch {report.torch} ({report.device})"
    )
