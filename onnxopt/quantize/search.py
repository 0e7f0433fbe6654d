"""Which nodes go back to float so that the accuracy holds.

The error that each island of integer nodes causes at the outputs, all others in float, tells how
much there is to win by putting it back. The errors of islands add up well enough to rank them;
what holds is measured with the metric, on samples that calibration has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Score, sqnr_db
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.workshop import Workshop, only
from onnxopt.rewrite.specs import Role

MOST_ISLANDS = 40
BACK = "it costs more accuracy than the budget allows"


@dataclass(frozen=True, slots=True)
class Island:
    """Integer nodes that follow each other, and what they alone cost: SQNR of the outputs in dB."""

    nodes: tuple[str, ...]
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan carried out, with its score and the names of the nodes that were put back."""

    plan: QuantPlan
    model: ir.Model
    score: Score
    sqnr_db: float
    back: tuple[str, ...] = ()


Progress = Callable[[float, str], None]
Judge = Callable[[QuantPlan, tuple[str, ...]], Candidate]
"""Builds a plan and scores it; also told what was put back."""


def sensitivities(
    workshop: Workshop, plan: QuantPlan, feeds: Sequence[Feed], progress: Progress
) -> tuple[Island, ...]:
    """The islands of a plan, worst first.

    Nodes are taken one by one, or several in a row where there are more than `MOST_ISLANDS`.
    """
    wanted = workshop.outputs(workshop.model, feeds)
    found = []
    groups = _groups(workshop, plan)
    for number, names in enumerate(groups):
        progress(number / len(groups), "looking for what costs accuracy")
        model = workshop.build(only(plan, workshop.model, names), correct=False)
        found.append(Island(names, sqnr_db(wanted, workshop.outputs(model, feeds))))
    return tuple(sorted(found, key=lambda island: island.sqnr_db))


def put_back(
    workshop: Workshop,
    islands: Sequence[Island],
    reasons: dict[str, str],
    max_drop: float | None,
    judge: Judge,
    progress: Progress,
) -> tuple[Candidate | None, Candidate | None]:
    """The candidate with the fewest of the worst islands in float that holds, and the best seen.

    The first is None where none holds before all is float again. `reasons` are of nodes that stay
    float anyway.
    """
    low, high = 1, len(islands) - 1
    held: Candidate | None = None
    best: Candidate | None = None
    while low <= high:
        count = (low + high) // 2
        progress(0.0, f"putting the worst {count} of {len(islands)} islands back to float")
        back = tuple(name for island in islands[:count] for name in island.nodes)
        plan = workshop.plan({**reasons, **dict.fromkeys(back, BACK)})
        if not any(choice.quantize for choice in plan.nodes):
            high = count - 1
            continue
        found = judge(plan, back)
        if best is None or found.score.drop < best.score.drop:
            best = found
        if found.score.within(max_drop):
            held, high = found, count - 1
        else:
            low = count + 1
    return held, best


def _groups(workshop: Workshop, plan: QuantPlan) -> list[tuple[str, ...]]:
    names = [
        choice.node
        for choice in plan.nodes
        if choice.quantize and workshop.specs[choice.op_type].role is not Role.MOVE
    ]
    size = -(-len(names) // MOST_ISLANDS)
    return [tuple(names[start : start + size]) for start in range(0, len(names), size or 1)]
