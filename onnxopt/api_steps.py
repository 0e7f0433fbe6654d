"""The steps of `compress`: each works on what was kept so far, and is kept or rolled back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from onnxopt import api_prune, api_quantize
from onnxopt.arguments import Progress
from onnxopt.bench.cost import Cost, cost_at
from onnxopt.bench.race import race
from onnxopt.bench.timing import Timing
from onnxopt.bench.timing import bench as time_models
from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Metric, Outputs, Score, choose
from onnxopt.errors import ParityFailed, RuntimeFailed
from onnxopt.quantize import samples
from onnxopt.quantize.modes import outputs
from onnxopt.report.compression import Decision
from onnxopt.report.stages import Stage, stage_of

_MARGINS = 500
"""Further samples of which it is asked how near they lie to the borders of classes."""
_TIMED = 2
_TAUGHT = "what it lost was won back by teaching"


@dataclass(frozen=True, slots=True)
class Asked:
    """The keywords of each step; None for a step that is not asked for."""

    prune: Mapping[str, Any] | None
    distill: Mapping[str, Any] | None
    quantize: Mapping[str, Any] | None
    optimize: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """What all steps share: the budget, whether to time, threads, the seed, whom to tell."""

    max_drop: float
    bench: bool
    threads: int
    seed: int
    say: Progress


class Judge:
    """Scores models against the original, on the samples that no step learns from."""

    def __init__(
        self, metric: Metric, split: samples.Samples, original: ir.Model, threads: int
    ) -> None:
        self.samples = split
        self._metric = replace(metric, labels=split.labels)
        self._threads = threads
        self._wanted = outputs(original, split.held, threads)
        classes = metric.name in ("agreement", "top1") or (
            metric.name == "auto" and choose(self._wanted[0]) == "agreement"
        )
        more = list(itertools.islice(split.calibration, _MARGINS)) if classes else []
        self._others = outputs(original, more, threads)

    def score(self, model: ir.Model) -> Score:
        """How far the model has fallen behind the original."""
        return self._score(outputs(model, self.samples.held, self._threads))

    def gain(self, found: list[Outputs], feeds: list[Feed]) -> float:
        """The score as a metric of the outputs alone: what is lost, negated."""
        return -self._score(found).drop

    def _score(self, found: Sequence[Outputs]) -> Score:
        return self._metric.score(self._wanted, found, self.samples.held, self._others)


@dataclass(slots=True)
class Made:
    """A model on the way, its score, and whether it was kept."""

    name: str
    model: ir.Model
    score: Score
    kept: bool = True


class Run:
    """The steps, each from what was kept so far.

    `decisions` say what became of each, `made` are the models, the optimized one first, and
    `reports` those of the steps by name.
    """

    def __init__(self, asked: Asked, judge: Judge, choices: Choices, optimized: ir.Model) -> None:
        self._asked, self._judge, self._choices = asked, judge, choices
        self._optimized = optimized
        # Each step optimizes what it is given, and must not do there what the user did not want.
        limits = {name: asked.optimize.get(name, ()) for name in ("only", "disable")}
        again = {"level": "clean", "check": False, **limits}
        self._shared: dict[str, Any] = {
            "seed": choices.seed, "threads": choices.threads, "optimize": again,
        }  # fmt: skip
        self.decisions: list[Decision] = []
        self.made = [Made("optimized", optimized, judge.score(optimized))]
        self.reports: dict[str, Any] = {}

    @property
    def kept(self) -> Made:
        """The last model that was kept."""
        return next(each for each in reversed(self.made) if each.kept)

    def prune_and_teach(self) -> None:
        """Prune, teach what is left where that is asked for, and decide on both."""
        if self._asked.prune is None:
            return
        found = self._pruned(self._asked.prune)
        slow = "" if found is None else self._slower(found.model)
        if found is None or slow:
            if found is not None:
                found.kept = False
                self._decide("prune", found, slow)
            if self._asked.distill is not None:
                skipped = "there is no pruned model to teach"
                self.decisions.append(Decision("distill", False, skipped))
            return
        if self._asked.distill is None:
            found.kept = self._holds(found)
            self._decide("prune", found, self._loss(found), missed=not found.kept)
            return
        self._decide_on_both(found, self._taught(found, self._asked.distill))

    def _decide_on_both(self, found: Made, taught: Made) -> None:
        """Keep the pruned model if it holds by itself or taught, and the better one of them."""
        better = taught.score.drop < found.score.drop
        alone, together = self._holds(found), better and self._holds(taught)
        found.kept = alone or together
        taught.kept = together
        saved = together and not alone
        self._decide(
            "prune", found, f"{self._loss(found)}; {_TAUGHT}" if saved else self._loss(found),
            missed=not found.kept,
        )  # fmt: skip
        reason = (
            self._loss(taught) if better else f"{self._loss(taught)}; it is no less than before"
        )
        self._decide("distill", taught, reason, missed=not found.kept)

    def quantize(self) -> None:
        """Quantize what was kept, with what is left of the budget."""
        if self._asked.quantize is None:
            return
        base = self.kept
        try:
            result = api_quantize.quantize(
                base.model, data=self._judge.samples, metric=self._judge.gain,
                max_drop=max(0.0, self._choices.max_drop - base.score.drop),
                bench=self._choices.bench, progress=self._told("quantize"),
                **self._shared, **self._asked.quantize,
            )  # fmt: skip
        except (ParityFailed, RuntimeFailed) as error:
            self.decisions.append(Decision("quantize", False, error.message))
            return
        report = result.report
        candidate = result.model if report.kept else result.best
        if candidate is None:
            self.reports["quantize"] = replace(report, score=None, max_drop=None)
            self.decisions.append(Decision("quantize", False, report.reason))
            return
        score = self._judge.score(candidate)
        self.reports["quantize"] = replace(report, score=score, max_drop=self._choices.max_drop)
        found = Made("quantized", candidate, score)
        held = self._holds(found)
        found.kept = report.kept and held
        self.made.append(found)
        self._decide(
            "quantize", found, report.reason if held else self._loss(found), missed=not held
        )

    def timing(self, original: ir.Model) -> Timing:
        """All models on the way, timed in turns."""
        return time_models(
            [original, *(each.model for each in self.made)],
            names=["original", *(each.name for each in self.made)],
            feeds=list(self._judge.samples.held[:_TIMED]),
            threads=self._choices.threads,
            progress=self._told("timing"),
        )

    def stages(self, before: Cost, timing: Timing | None) -> tuple[Stage, ...]:
        """What each model costs and how it scores."""
        reference = self.made[0].score.reference
        found = [stage_of("original", before, timing=timing, side="original", score=reference)]
        for each in self.made:
            stage = stage_of(
                each.name, cost_at(each.model), timing=timing, side=each.name,
                score=each.score.candidate,
            )  # fmt: skip
            name = each.name if each.kept else f"{each.name} (rolled back)"
            found.append(replace(stage, name=name))
        return tuple(found)

    def _pruned(self, keywords: Mapping[str, Any]) -> Made | None:
        try:
            result = api_prune.prune(
                self._optimized, data=self._judge.samples, bench=False,
                progress=self._told("prune"), **self._shared, **keywords,
            )  # fmt: skip
        except (ParityFailed, RuntimeFailed) as error:
            self.decisions.append(Decision("prune", False, error.message))
            return None
        self.reports["prune"] = result.report
        self.made.append(Made("pruned", result.model, self._judge.score(result.model)))
        return self.made[-1]

    def _taught(self, student: Made, keywords: Mapping[str, Any]) -> Made:
        from onnxopt.api_distill import distill

        result = distill(
            self._optimized, student.model, data=self._judge.samples.calibration,
            held=keywords.get("held", self._judge.samples.held),
            threads=self._choices.threads, seed=self._choices.seed,
            progress=self._told("distill"),
            **{name: given for name, given in keywords.items() if name != "held"},
        )  # fmt: skip
        self.reports["distill"] = result.report
        self.made.append(Made("distilled", result.model, self._judge.score(result.model)))
        return self.made[-1]

    def _slower(self, candidate: ir.Model) -> str:
        """Why the pruned model does not pay; empty where it does, or where time does not count."""
        if not self._choices.bench:
            return ""
        found = race(
            [self._optimized, candidate], self._judge.samples.held[:_TIMED],
            names=("optimized", "pruned"), threads=self._choices.threads,
            progress=self._told("prune"),
        )  # fmt: skip
        return "" if found.faster else f"it does not pay here: it runs at {found.speedup:.2f}x"

    def _decide(self, step: str, found: Made, reason: str, *, missed: bool = False) -> None:
        self.decisions.append(Decision(step, found.kept, reason, found.score, missed))

    def _holds(self, found: Made) -> bool:
        return found.score.within(self._choices.max_drop)

    def _loss(self, found: Made) -> str:
        score = found.score
        drop = f"{score.metric} drops by {score.drop:.4g}"
        if self._holds(found):
            return f"{drop}, and it holds the budget"
        return f"{drop}, and {self._choices.max_drop:g} is allowed"

    def _told(self, step: str) -> Progress:
        return lambda share, doing: self._choices.say(share, f"{step}: {doing}")
