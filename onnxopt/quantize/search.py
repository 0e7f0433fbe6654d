"""Which nodes go back to float so that the accuracy holds, for the least time.

The error that each island of integer nodes causes at the outputs, all others in float, tells how
much there is to win by putting it back, and its time what that costs. Nodes go back by error over
time: at a price for errors, the division of nodes is the best there is, and the price is raised
until the budget holds. The errors of islands add up well enough to rank them; what holds is
measured with the metric, on samples that calibration has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Score, sqnr_db
from onnxopt.quantize.costs import Costs
from onnxopt.quantize.division import Division, divide, seconds_of
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.workshop import Workshop, only
from onnxopt.rewrite.specs import Role

MOST_ISLANDS = 40
CORRECTED_ON = 24
"""Samples that the biases of an island by itself are corrected on."""
BACK = "it costs more accuracy than the budget allows"
SLOW = "it is faster in float, with what the borders around it take"


@dataclass(frozen=True, slots=True)
class Island:
    """Integer nodes that follow each other, and what they alone cost: SQNR of the outputs in dB.

    `saved` is how many seconds a call they save in integers, borders left out; None where time
    was not measured.
    """

    nodes: tuple[str, ...]
    sqnr_db: float
    saved: float | None = None

    @property
    def error(self) -> float:
        """Noise over signal at the outputs."""
        return 10 ** (-self.sqnr_db / 10) if math.isfinite(self.sqnr_db) else _error(self.sqnr_db)


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
    workshop: Workshop,
    plan: QuantPlan,
    feeds: Sequence[Feed],
    progress: Progress,
    costs: Costs | None = None,
) -> tuple[Island, ...]:
    """The islands of a plan, worst first.

    Nodes are taken one by one, or several in a row where there are more than `MOST_ISLANDS`.
    """
    wanted = workshop.outputs(workshop.model, feeds)
    some = list(islice(workshop.statistics.feeds, CORRECTED_ON))
    found = []
    groups = _groups(workshop, plan)
    for number, names in enumerate(groups):
        progress(number / len(groups), "looking for what costs accuracy")
        # A shifted mean would hide what is left once the biases are corrected, as they will be.
        model = workshop.build(only(plan, workshop.model, names), feeds=some)
        decibels = sqnr_db(wanted, workshop.outputs(model, feeds))
        found.append(Island(names, decibels, _saved(names, costs)))
    return tuple(sorted(found, key=lambda island: island.sqnr_db))


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for the budget needs.

    Args:
        workshop: Makes the candidates.
        plan: Every node that may run in integers.
        costs: What nodes and borders take.
        max_drop: The user's limit.
        judge: Builds and scores a plan.
        reasons: Why other nodes stay float anyway, by name.
        progress: Told how far it is.
    """

    workshop: Workshop
    plan: QuantPlan
    costs: Costs
    max_drop: float | None
    judge: Judge
    reasons: Mapping[str, str]
    progress: Progress

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that may run in integers."""
        return tuple(choice.node for choice in self.plan.nodes if choice.quantize)

    def divided(self, errors: Mapping[str, float] | None = None, price: float = 0.0) -> Division:
        """The best division at a price for errors."""
        shop = self.workshop
        return divide(shop.model, self.plan, shop.specs, self.costs, errors, price)

    def seconds(self, names: Collection[str]) -> float:
        """What the nodes take together where only those of `names` are in integers."""
        shop = self.workshop
        return seconds_of(shop.model, self.plan, shop.specs, self.costs, frozenset(names))

    def plan_for(self, division: Division, quick: Division) -> tuple[QuantPlan, tuple[str, ...]]:
        """The plan of a division, and what it leaves in float for accuracy's sake.

        `quick` is the division by time alone.
        """
        slow = [name for name in self.names if name not in quick.integers]
        back = [name for name in self.names if name in quick.integers - division.integers]
        reasons = {**self.reasons, **dict.fromkeys(slow, SLOW), **dict.fromkeys(back, BACK)}
        return self.workshop.plan(reasons), tuple(back)


def put_back(
    search: Search, islands: Sequence[Island]
) -> tuple[Candidate | None, Candidate | None]:
    """The fastest candidate that holds, and the best seen.

    The first is None where none holds before all is float again.
    """
    errors = _shared(islands)
    quick = search.divided()
    divisions = _ladder(search, errors)
    low, high = 0, len(divisions) - 1
    held: Candidate | None = None
    best: Candidate | None = None
    while low <= high:
        middle = (low + high) // 2
        division = divisions[middle]
        search.progress(0.0, f"{len(division.integers)} of {len(search.names)} nodes in integers")
        plan, back = search.plan_for(division, quick)
        if not any(choice.quantize for choice in plan.nodes):
            high = middle - 1
            continue
        found = search.judge(plan, back)
        if best is None or found.score.drop < best.score.drop:
            best = found
        if found.score.within(search.max_drop):
            held, high = found, middle - 1
        else:
            low = middle + 1
    return held, best


def _ladder(search: Search, errors: Mapping[str, float]) -> list[Division]:
    """Divisions at rising prices, each with fewer nodes in integers than the one before."""
    costs = search.costs
    ratios = {
        (costs.floats.get(name, 0.0) - costs.integers.get(name, 0.0)) / error
        for name, error in errors.items()
        if error > 0
    }
    prices = sorted(ratio for ratio in ratios if ratio > 0)
    found: list[Division] = []
    quick = search.divided()
    for price in prices:
        division = search.divided(errors, price * 1.001)
        if not division.integers:
            break
        if division.integers != (found[-1] if found else quick).integers:
            found.append(division)
    return found


def _shared(islands: Sequence[Island]) -> dict[str, float]:
    """The error of each node, by name: that of its island in equal parts."""
    return {name: each.error / len(each.nodes) for each in islands for name in each.nodes}


def _error(decibels: float) -> float:
    return 0.0 if decibels > 0 else 1e6


def _saved(names: Sequence[str], costs: Costs | None) -> float | None:
    if costs is None or not costs.measured:
        return None
    return sum(costs.floats.get(name, 0.0) - costs.integers.get(name, 0.0) for name in names)


def _groups(workshop: Workshop, plan: QuantPlan) -> list[tuple[str, ...]]:
    names = [
        choice.node
        for choice in plan.nodes
        if choice.quantize and workshop.specs[choice.op_type].role is not Role.MOVE
    ]
    size = -(-len(names) // MOST_ISLANDS)
    return [tuple(names[start : start + size]) for start in range(0, len(names), size or 1)]
