"""The record of a model that was pruned, taught and quantized in one go, and its page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.distillation import distillation_page
from onnxopt.report.page import Block, Heading, Line, Page, Summary, Table, Tone, section, table
from onnxopt.report.pages import circumstances, optimization_blocks, timing_blocks
from onnxopt.report.pruning_page import pruning_page
from onnxopt.report.quantization_page import quantization_page
from onnxopt.report.record import Record, Versions
from onnxopt.report.stages import Stage, stage_blocks, stage_figures

if TYPE_CHECKING:
    from onnxopt.bench.timing import Timing
    from onnxopt.check.metric import Score
    from onnxopt.report.distillation import DistillReport
    from onnxopt.report.pruning import PruneReport
    from onnxopt.report.quantization import QuantizationReport
    from onnxopt.report.record import Report


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether what a step made was kept, or rolled back, and why.

    `score` is that of its model against the original, None where it made none; `missed` tells that
    it was rolled back for the budget.
    """

    step: str
    kept: bool
    reason: str
    score: Score | None = None
    missed: bool = False


@dataclass(frozen=True, slots=True)
class CompressionReport(Record):
    """What `compress` did to one model.

    `stages` are all models on the way, those rolled back too, each scored against the original on
    the samples that were kept apart from every step, and all timed in turns. `score` is that of
    the result. The reports of the steps are None where a step was not asked for or made nothing.
    """

    source: str
    output: str
    metric: str
    max_drop: float
    score: Score
    decisions: tuple[Decision, ...]
    stages: tuple[Stage, ...]
    timing: Timing | None
    optimization: Report
    pruning: PruneReport | None
    distillation: DistillReport | None
    quantization: QuantizationReport | None
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def kept(self) -> tuple[str, ...]:
        """The steps whose work is in the result."""
        return tuple(each.step for each in self.decisions if each.kept)

    @property
    def passed(self) -> bool:
        """Whether the result may be kept.

        False where optimizing changed the numbers, where nodes stayed float against `strict`, and
        where the budget left nothing of all that was asked for.
        """
        if not self.optimization.passed or not self.score.within(self.max_drop):
            return False
        kept = self.quantization if "quantize" in self.kept else None
        if kept is not None and kept.strict and kept.not_integer:
            return False
        return bool(self.kept) or not any(each.missed for each in self.decisions)


def compression_page(report: CompressionReport, *, verbose: bool = False) -> Page:
    """The stages, what was kept and why, time; with `verbose` each step's own page too."""
    title = f"{report.source} → {report.output}"
    blocks = section(title, stage_blocks(report.stages, report.metric))
    blocks += section("What was kept, and what was rolled back", _decisions(report))
    if report.timing is not None:
        blocks += section("Speed", timing_blocks(report.timing, pictures=verbose))
    if verbose:
        blocks += optimization_blocks(report.optimization)
        if report.pruning is not None:
            blocks += _within("Pruning", pruning_page(report.pruning, verbose=True))
        if report.distillation is not None:
            blocks += _within("Distillation", distillation_page(report.distillation, verbose=True))
        if report.quantization is not None:
            blocks += _within("Quantization", quantization_page(report.quantization, verbose=True))
    blocks += section("Good to know", [Line(note) for note in report.notes])
    run = Line(circumstances(report.versions, report.seconds), "quiet")
    return (*blocks, *section("Run", [run]), _summary(report))


def _decisions(report: CompressionReport) -> list[Block]:
    rows = [
        (
            each.step,
            "kept" if each.kept else "rolled back",
            "" if each.score is None else f"{each.score.drop:.4g}",
            f"{report.max_drop:g}",
            each.reason,
        )
        for each in report.decisions
    ]
    return table(("step", "", ">drop", ">allowed", "why"), rows)


def _within(name: str, page: Iterable[Block]) -> list[Block]:
    """A page as a part of another: its headings say of what, and it has no stages or summary.

    Its title, of paths, gives way to the name alone.
    """
    found: list[Block] = []
    for block in page:
        if isinstance(block, Summary) or (isinstance(block, Table) and block.columns[0] == "stage"):
            continue
        if isinstance(block, Heading):
            block = Heading(f"{name}: {block.text}" if found else name)
        found.append(block)
    return found


def _summary(report: CompressionReport) -> Summary:
    tone: Tone = "good" if report.passed else "bad"
    if not report.optimization.passed:
        text = "The optimized model does not agree with the model: nothing was written."
    elif report.passed and report.kept:
        left = [each.step for each in report.decisions if not each.kept]
        text = f"Kept: {', '.join(report.kept)}."
        text += f" Rolled back: {', '.join(left)}." if left else ""
    elif report.passed:
        text, tone = "The optimized float model is kept: nothing that was asked for pays.", "plain"
    elif report.kept:
        text = "A promise is broken: planned nodes stayed float, or the budget is missed."
    else:
        text = "The budget is missed: every step was rolled back."
    last = [each for each in report.stages if not each.name.endswith("(rolled back)")]
    return Summary(text, tone, stage_figures(last, report.metric))
