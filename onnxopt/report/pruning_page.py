"""What a pruning says on a page: stages, what each step won back, every group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxopt.report.page import Block, Line, Page, Summary, Tone, count_text, section, table
from onnxopt.report.pages import circumstances, timing_blocks
from onnxopt.report.stages import stage_blocks, stage_figures

if TYPE_CHECKING:
    from onnxopt.prune.explain import Explanation
    from onnxopt.prune.plan import PlannedGroup
    from onnxopt.report.pruning import PruneReport


def pruning_page(report: PruneReport, *, verbose: bool = False) -> Page:
    """The stages, time, recovery, and the groups: those that gave channels, with `verbose` all."""
    metric = "" if report.score is None else report.score.metric
    blocks = section(f"{report.source} → {report.output}", stage_blocks(report.stages, metric))
    if report.timing is not None:
        blocks += section("Speed", timing_blocks(report.timing, pictures=verbose))
    blocks += section("Distance from the original, step by step", _steps(report))
    blocks += section("What was removed", _groups(report.groups))
    blocks += section("What stays", _frozen(report.explanation, verbose))
    blocks += section("Good to know", [Line(note) for note in report.notes])
    run = Line(circumstances(report.versions, report.seconds), "quiet")
    return (*blocks, *section("Run", [run]), _summary(report, metric))


_NOTHING = "There is nothing to prune."
_UNKNOWN = (
    "The multiply-accumulates are not known: the inputs are of open size; --dim and --input-shape "
    "give sizes."
)


def explanation_page(found: Explanation, source: str, *, verbose: bool = False) -> Page:
    """Every group with its size, cost and, if it is frozen, the reason."""
    rows = [
        (
            row.group,
            row.kind,
            f"{row.size:,}",
            count_text(row.macs) if row.macs else "",
            count_text(row.parameters),
            row.frozen or "may be pruned",
        )
        for row in found.rows
    ]
    columns = ("group", "kind", ">channels", ">MACs", ">parameters", "")
    blocks = section(source, table(columns, rows))
    share = f"{100 * found.prunable_share:.1f}% of the multiply-accumulates can be pruned."
    if not found.macs:
        share = _UNKNOWN if any(not row.frozen for row in found.rows) else _NOTHING
    blocks += section("In reach", [Line(share), *_unreached(found, verbose)])
    return tuple(blocks)


def _steps(report: PruneReport) -> list[Block]:
    rows = [(name, f"{value:.4g}") for name, value in report.divergences.items()]
    return table(("after", ">divergence"), rows) if rows else []


def _groups(groups: Sequence[PlannedGroup]) -> list[Block]:
    rows = [
        (group.name, group.kind, f"{group.size:,}", f"{group.size - len(group.remove):,}")
        for group in groups
        if group.remove
    ]
    if not rows:
        return [Line("Nothing was removed.")]
    return table(("group", "kind", ">channels", ">left"), rows)


def _frozen(found: Explanation, verbose: bool) -> list[Block]:
    share = f"{100 * found.prunable_share:.1f}% of the multiply-accumulates were in reach."
    rows = [(row.group, f"{row.size:,}", row.frozen) for row in found.rows if row.frozen]
    shown = table(("group", ">channels", "why"), rows) if verbose and rows else []
    return [Line(share), *shown]


def _unreached(found: Explanation, verbose: bool) -> list[Block]:
    rows = [
        (node, f"{100 * share:.1f}%", "; ".join(reasons) or "no channels pass it")
        for node, share, reasons in found.unreached[: None if verbose else 10]
    ]
    return table(("node", ">MACs", "why"), rows) if rows else []


def _summary(report: PruneReport, metric: str) -> Summary:
    tone: Tone = "good" if report.passed else "bad"
    text = "Pruned." if report.passed else "The budget is missed: more was lost than allowed."
    return Summary(text, tone, stage_figures(report.stages, metric))
