"""The record of a pruning: what went, what stayed and why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.record import Record, Versions, holds
from onnxopt.report.stages import Stage

if TYPE_CHECKING:
    from onnxopt.bench.timing import Timing
    from onnxopt.check.metric import Score
    from onnxopt.prune.explain import Explanation
    from onnxopt.prune.plan import PlannedGroup, Target


@dataclass(frozen=True, slots=True)
class PruneReport(Record):
    """What `prune` did to one model.

    `divergences` tell how far the outputs were from the original's after each step of the recovery,
    in nats or as noise over signal; the smallest one was kept. `score` is the metric on the samples
    kept apart, None without data. `stages` are the original, the optimized and the pruned model.
    """

    source: str
    output: str
    target: Target
    score_name: str
    recover: str
    groups: tuple[PlannedGroup, ...]
    explanation: Explanation
    divergences: Mapping[str, float]
    score: Score | None
    max_drop: float | None
    stages: tuple[Stage, ...]
    timing: Timing | None
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """False where more was lost than `max_drop`."""
        return holds(self.score, self.max_drop)
