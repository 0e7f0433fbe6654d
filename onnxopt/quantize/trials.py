"""Takes back what a weight method did where samples it was not fitted on come out worse.

Each method is tried upon those before it: the outputs with it and without are held against the
float model's, sample by sample. A difference that may be chance says nothing; a loss that is not
takes the method back, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Outputs, float_outputs
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.workshop import Workshop

Array = np.ndarray[Any, np.dtype[Any]]

ERRORS = 2.0
"""A loss counts from this many standard errors on."""
LEAST = 0.1
"""In dB: less is no loss that anyone would notice."""
LEAST_OF_FEW = 0.5
"""In dB, where one or two samples can't tell what is chance."""
RUINED = 2.0
"""So many times the noise is no chance, even where it is one sample's."""
CORRECTED_ON = 24
"""Samples that biases are corrected on for a trial; it takes more to get the last tenth of a dB."""

COSTLY = frozenset({"smoothing"})
"""Methods that may add nodes."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a weight method did to the outputs, as SQNR in dB on samples it was not fitted on.

    The noise of all outputs is added up. `kept` is False where the method was taken back.
    """

    method: str
    before_db: float
    after_db: float
    kept: bool

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.kept:
            return "kept"
        gains = self.after_db >= self.before_db - LEAST
        return "taken back: it brings too little" if gains else "taken back: the outputs got worse"


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of each sample over the signal of all, float64 [samples]."""

    samples: Array

    @classmethod
    def of(cls, reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> Noise:
        """What a candidate's outputs lack, those that are floats added up."""
        names = list(float_outputs(reference[0])) if reference else []
        signal, noise = np.zeros(len(names)), np.zeros((len(reference), len(names)))
        for row, left, right in zip(noise, reference, candidate, strict=True):
            for at, name in enumerate(names):
                wanted = np.asarray(left[name], np.float64)
                signal[at] += np.square(wanted).sum()
                row[at] = np.square(np.asarray(right[name], np.float64) - wanted).sum()
        return cls((noise / np.where(signal, signal, 1.0)).sum(axis=1))

    @property
    def decibels(self) -> float:
        """Signal over noise."""
        total = float(self.samples.sum())
        if math.isnan(total):
            return math.nan
        return -10 * math.log10(total) if total else math.inf

    def is_worse_than(self, other: Noise) -> bool:
        """Whether there is more noise than in the other, by more than chance and than a trifle."""
        more = self.samples - other.samples
        if not np.isfinite(more).all():
            return bool(np.isfinite(other.samples).all())
        few = more.size < 3
        chance = 0.0 if few else float(more.std(ddof=1)) / math.sqrt(more.size)
        least = 10 ** ((LEAST_OF_FEW if few else LEAST) / 10)
        mine, others = float(self.samples.sum()), float(other.samples.sum())
        # One sample that is ruined stays within the errors of a few.
        clear = more.mean() > ERRORS * chance or mine > RUINED * others
        return bool(mine > others * least and clear)


def judged(method: str, before: Noise, after: Noise) -> Trial:
    """What is to become of a method that was tried; one that costs time has to bring something."""
    kept = before.is_worse_than(after) if method in COSTLY else not after.is_worse_than(before)
    return Trial(method, before.decibels, after.decibels, kept)


@dataclass(frozen=True, slots=True)
class Bench:
    """Samples to judge on, with what the float model gives for them."""

    feeds: Sequence[Feed]
    wanted: Sequence[Outputs]

    def noise(self, shop: Workshop, model: ir.Model) -> Noise:
        """What a model lacks on them."""
        return Noise.of(self.wanted, shop.outputs(model, self.feeds))


def settle(
    shop: Workshop, plan: QuantPlan, bench: Bench, progress: Progress
) -> tuple[Workshop, tuple[Trial, ...]]:
    """The workshop with the methods that do no harm, and how the trials went.

    "saturation" is not tried: it is there for CPUs other than this one. The correction of biases
    comes before the choice of codes, which counts on it.
    """
    base = shop.using(tuple(name for name in shop.methods if name not in _TRIED))
    tried = [name for name in _TRIED if name in shop.methods]
    if not tried or not bench.wanted or not float_outputs(bench.wanted[0]):
        return shop, ()
    kept, trials = base, []
    before = _noise(kept, plan, bench)
    for method in tried:
        progress(0.0, f"trying {method}")
        changed = kept.using((*kept.methods, method))
        after = _noise(changed, plan, bench)
        trial = judged(method, before, after)
        trials.append(trial)
        if trial.kept:
            kept, before = changed, after
    return kept, tuple(trials)


_TRIED = ("bias", "rounding")


def _noise(shop: Workshop, plan: QuantPlan, bench: Bench) -> Noise:
    feeds = list(islice(shop.statistics.feeds, CORRECTED_ON))
    return bench.noise(shop, shop.build(plan, feeds=feeds))
