"""The record of making weights sparse or few-valued, and what it says on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.page import (
    Block,
    Figure,
    Line,
    Page,
    Summary,
    Tone,
    bytes_text,
    change_text,
    count_text,
    section,
    table,
)
from onnxopt.report.pages import circumstances
from onnxopt.report.record import Record, Versions, holds

if TYPE_CHECKING:
    from onnxopt.check.metric import Score
    from onnxopt.prune.compression import Layer

NO_GAIN = (
    "onnxruntime's CPU provider gains nothing from zeros or few-valued weights: the file, the work"
    " and the time of a run stay as they are. Runtimes with sparse kernels gain speed, and what is"
    " compressed to be stored or sent gets smaller."
)


@dataclass(frozen=True, slots=True)
class SparsityReport(Record):
    """What `sparsify` did to one model.

    `sparsity` and `cluster` are what was asked for, `score` is the metric on the samples kept
    apart, None without data. The zipped sizes are of the optimized and the changed model after
    zlib, in bytes, None above 2 GB.
    """

    source: str
    output: str
    sparsity: str
    cluster: int | None
    score_name: str
    recover: str
    layers: tuple[Layer, ...]
    file_bytes: int
    zipped_before: int | None
    zipped_after: int | None
    score: Score | None
    max_drop: float | None
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """False where more was lost than `max_drop`."""
        return holds(self.score, self.max_drop)

    @property
    def zeros(self) -> float:
        """The share of the weights of all products that is 0."""
        total = sum(layer.size for layer in self.layers)
        return sum(layer.zeros for layer in self.layers) / total if total else 0.0


def sparsity_page(report: SparsityReport, *, verbose: bool = False) -> Page:
    """Sizes, the loss, the layers (with `verbose` all of them) and why some stayed as they were."""
    title = f"{report.source} → {report.output}"
    run = Line(circumstances(report.versions, report.seconds), "quiet")
    notes = [Line(NO_GAIN), *(Line(note) for note in report.notes)]
    return (
        *section(title, _sizes(report)),
        *section("Loss on the samples kept apart", _loss(report)),
        *section("Layers", _layers(report, verbose)),
        *section("What stays as it is, and why", _left(report.layers)),
        *section("Good to know", notes),
        *section("Run", [run]),
        _summary(report),
    )


def _sizes(report: SparsityReport) -> list[Block]:
    rows = [("file", bytes_text(report.file_bytes), bytes_text(report.file_bytes), "")]
    before, after = report.zipped_before, report.zipped_after
    if before is not None and after is not None:
        change = change_text(before, after)
        rows.append(("file, zipped", bytes_text(before), bytes_text(after), change))
    return table(("", ">optimized", ">now", ">change"), rows)


def _loss(report: SparsityReport) -> list[Block]:
    score = report.score
    if score is None:
        return []
    row = (score.metric, f"{score.candidate:.4g}", f"{score.drop:.4g}", score.samples)
    return table(("metric", ">now", ">drop", ">samples"), [row])


def _layers(report: SparsityReport, verbose: bool) -> list[Block]:
    shown = [each for each in report.layers if each.size and not (each.dense and each.whole)]
    shown.sort(key=lambda each: -(each.noise or 0.0))
    rows = [
        (
            each.node,
            each.op,
            count_text(each.size),
            f"{100 * each.zeros / each.size:.1f} %",
            f"{each.values:,}",
            "" if each.noise is None else f"{each.noise:.2g}",
        )
        for each in (shown if verbose else shown[:10])
    ]
    columns = ("node", "op", ">weights", ">zeros", ">values", ">noise / signal")
    return table(columns, rows) if rows else []


def _left(layers: Sequence[Layer]) -> list[Block]:
    counts: dict[str, list[str]] = {}
    for each in layers:
        for reason in dict.fromkeys(filter(None, (each.dense, each.whole))):
            counts.setdefault(reason, []).append(each.node)
    rows = [(len(nodes), reason, nodes[0]) for reason, nodes in counts.items()]
    return table((">nodes", "why", "such as"), rows) if rows else []


def _summary(report: SparsityReport) -> Summary:
    tone: Tone = "good" if report.passed else "bad"
    text = f"{100 * report.zeros:.1f} % of the weights are 0"
    text += f", {report.cluster} values a tensor at most." if report.cluster else "."
    if not report.passed:
        text = "The budget is missed: more was lost than allowed."
    figures = []
    if report.score is not None:
        figures.append(Figure(report.score.metric, "", f"{report.score.candidate:.4g}"))
    before, after = report.zipped_before, report.zipped_after
    if before is not None and after is not None:
        figures.append(
            Figure("zipped", bytes_text(before), bytes_text(after), change_text(before, after))
        )
    return Summary(text, tone, tuple(figures))
