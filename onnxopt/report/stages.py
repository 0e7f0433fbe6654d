"""The models on the way from what was given to what is kept: size, MACs, time and score of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.page import Block, Figure, bytes_text, change_text, count_text, table

if TYPE_CHECKING:
    from onnxopt.bench.cost import Cost
    from onnxopt.bench.timing import Timing


@dataclass(frozen=True, slots=True)
class Stage:
    """One of them. `milliseconds` is the median time of a call; None where it was not measured."""

    name: str
    nodes: int
    bytes: int
    parameters: int | None = None
    macs: int | None = None
    milliseconds: float | None = None
    score: float | None = None


def stage_of(
    name: str,
    cost: Cost,
    *,
    timing: Timing | None = None,
    side: str = "",
    score: float | None = None,
) -> Stage:
    """A stage of what its model costs, with the time of the side of that name."""
    sides = () if timing is None else timing.sides
    found = next((each.median.median for each in sides if each.name == side), None)
    return Stage(name, cost.nodes, cost.bytes, cost.parameters, cost.macs, found, score)


def stage_blocks(stages: Sequence[Stage], metric: str = "") -> list[Block]:
    """A row for each stage, with the columns that are known of any; nothing for a single stage."""
    if len(stages) < 2:
        return []
    columns: list[tuple[str, list[str]]] = [
        (">nodes", [f"{stage.nodes:,}" for stage in stages]),
        (">size", [bytes_text(stage.bytes) for stage in stages]),
        (">MACs", [_known(stage.macs, count_text) for stage in stages]),
        (">ms", [_known(stage.milliseconds, _short) for stage in stages]),
        (f">{metric or 'score'}", [_known(stage.score, score_text) for stage in stages]),
    ]
    columns = [(name, cells) for name, cells in columns if any(cells)]
    rows = zip([stage.name for stage in stages], *(cells for _, cells in columns), strict=True)
    return table(("stage", *(name for name, _ in columns)), rows)


def stage_figures(stages: Sequence[Stage], metric: str = "") -> tuple[Figure, ...]:
    """What changed from the first stage to the last."""
    if len(stages) < 2:
        return ()
    first, last = stages[0], stages[-1]
    found = []
    if last.score is not None:
        before = "" if first.score is None else score_text(first.score)
        found.append(Figure(metric or "score", before, score_text(last.score)))
    timed = [each for each in stages if each.milliseconds is not None]
    if len(timed) > 1 and timed[-1] is last:
        found.append(_time(timed[0].milliseconds or 0.0, last.milliseconds or 0.0))
    found.append(_figure("size", first.bytes, last.bytes, bytes_text))
    if first.macs is not None and last.macs is not None:
        found.append(_figure("MACs", first.macs, last.macs, count_text))
    found.append(_figure("nodes", first.nodes, last.nodes, lambda number: f"{number:,}"))
    return tuple(found)


def _time(before: float, after: float) -> Figure:
    ratio = before / after if after else math.inf
    return Figure("time of a run", f"{_short(before)} ms", f"{_short(after)} ms", f"{ratio:.2f}x")


def _figure(name: str, before: float, after: float, text: object) -> Figure:
    assert callable(text)
    return Figure(name, text(before), text(after), change_text(before, after))


def score_text(value: float) -> str:
    """A score with the digits that tell scores apart."""
    return f"{value:.4g}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _known(value: float | None, text: object) -> str:
    assert callable(text)
    return "" if value is None or not math.isfinite(value) else text(value)
