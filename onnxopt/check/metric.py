"""How far a candidate falls behind its reference on data, as one number a user can set a limit to.

Metrics look at what onnxruntime really computes, its own optimizations on: integer kernels differ
from the graph as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxopt.check.data import function_of
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
Outputs: TypeAlias = Mapping[str, Any]
"""What a model gives for one feed, by output name."""

NAMES = ("auto", "top1", "agreement", "sqnr", "cosine")
"""Metrics that go by a name; `module:function` is one of the user's own."""

MAX_DROP = 0.005
"""What may be lost unless the user says otherwise."""
MAX_CHANGED = 0.007
"""What agreement may lose unless the user says otherwise: a class may change without being worse.

Inputs met later lie nearer to the borders between classes than those at hand, which are often a
part of what the network was trained on. ResNets on CIFAR-10 and EfficientNet on photos change 1.7
times as many classes there as on calibration samples: 1.2%, where 1.5% is meant to be the most.
"""

_MOST_PAIRED = 400_000_000
_NEAR = 8
"""Samples it takes at least to tell how many lie near a border between classes."""

CustomMetric: TypeAlias = Callable[[list[Outputs], list[Feed]], float]


@dataclass(frozen=True, slots=True)
class Score:
    """What a metric found: `drop` is how much is lost, in the metric's own unit, 0 for nothing.

    `reference` and `candidate` are the two models' values. The drop is their difference for
    functions, 1 − candidate for `cosine`, and noise over signal (0.005 is 23 dB) for `sqnr`,
    whose values are in dB. For `agreement` it is the share of classes that are expected to change
    when any error may meet any sample, and a standard error more: few samples must show less. For
    `top1` it is what that is expected to cost in right classes. `samples` counts what was decided
    on.
    """

    metric: str
    reference: float
    candidate: float
    drop: float
    samples: int

    def allowed(self, max_drop: float | None) -> float:
        """What may be lost: the user's limit, or the usual one."""
        usual = MAX_CHANGED if self.metric == "agreement" else MAX_DROP
        return usual if max_drop is None else max_drop

    def within(self, max_drop: float | None) -> bool:
        """Whether the drop is allowed."""
        return self.drop <= self.allowed(max_drop) + 1e-12


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name or function, with the labels that `top1` needs."""

    name: str
    labels: Array | None = None
    function: CustomMetric | None = None

    def score(
        self,
        reference: Sequence[Outputs],
        candidate: Sequence[Outputs],
        feeds: Sequence[Feed],
        others: Sequence[Outputs] = (),
    ) -> Score:
        """The candidate's score; all three have an entry for each feed.

        `others` are what the reference gives for further samples: how near those lie to the
        borders between classes tells more about what an error does.

        Raises BadInput where the metric can't be computed, or is NaN.
        """
        if not reference:
            raise BadInput("there are no samples to measure on", hint="give more --data")
        score = self._score(reference, candidate, feeds, others)
        if math.isnan(score.drop):
            raise BadInput(
                f"the metric {self.name!r} is NaN",
                hint="look for NaN in the outputs, or choose another --metric",
            )
        return score

    def _score(
        self,
        reference: Sequence[Outputs],
        candidate: Sequence[Outputs],
        feeds: Sequence[Feed],
        others: Sequence[Outputs],
    ) -> Score:
        if self.function is not None:
            left = _called(self.function, self.name, reference, feeds)
            right = _called(self.function, self.name, candidate, feeds)
            return Score(self.name, left, right, left - right, len(feeds))
        name = self.name if self.name != "auto" else choose(reference[0])
        if name == "sqnr":
            decibels = sqnr_db(reference, candidate)
            return Score(name, math.inf, decibels, 10 ** (-decibels / 10), len(feeds))
        if name == "cosine":
            found = _cosine(reference, candidate)
            return Score(name, 1.0, found, 1.0 - found, len(feeds))
        before, after = _classes(reference), _classes(candidate)
        rows = _Rows.of(reference, candidate, others)
        if name == "agreement":
            share = float(np.mean(before == after))
            drop = 1.0 - share if rows is None else rows.changes()
            return Score("agreement", 1.0, share, drop, before.size)
        assert self.labels is not None
        return _top1(before, after, self.labels, rows)


def metric(spec: str | CustomMetric, labels: Any = None) -> Metric:
    """The metric that `spec` names.

    Args:
        spec: "top1" (the share of right classes, needs labels), "agreement" (the share of samples
            whose class stays the reference's), "sqnr", "cosine", "auto" (agreement where the first
            output has scores of classes, else sqnr), or a function, or its `module:function`: from
            outputs and feeds, both lists, to a number that is higher where the model is better.
        labels: For top1: a class index for each sample.

    Raises:
        BadInput: There is no such metric, or labels are missing, or not asked for.
    """
    if callable(spec):
        return Metric(getattr(spec, "__name__", "function"), None, spec)
    if ":" in spec:
        return Metric(spec, None, function_of(spec))
    if spec not in NAMES:
        raise BadInput(
            f"there is no metric {spec!r}",
            hint=f"choose one of {', '.join(NAMES)} or give module:function",
        )
    if spec == "top1" and labels is None:
        raise BadInput("the metric top1 needs labels", hint="give --labels, or use agreement")
    if labels is not None and spec != "top1":
        raise BadInput(f"the metric {spec} has no use for labels", hint="use --metric top1")
    return Metric(spec, None if labels is None else np.asarray(labels).reshape(-1))


def choose(outputs: Outputs) -> str:
    """The metric that fits a model's outputs: "agreement" for scores of classes, else "sqnr"."""
    first = next(iter(float_outputs(outputs).values()), None)
    rows = first is not None and first.ndim == 2 and first.shape[1] > 1
    return "agreement" if rows and len(float_outputs(outputs)) == 1 else "sqnr"


def sqnr_db(reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> float:
    """Signal over noise in dB of the output that suffers most, over all samples."""
    found: list[float] = []
    for name in float_outputs(reference[0]):
        signal = noise = 0.0
        for left, right in zip(reference, candidate, strict=True):
            wanted = np.asarray(left[name], np.float64)
            signal += float(np.square(wanted).sum())
            noise += float(np.square(np.asarray(right[name], np.float64) - wanted).sum())
        found.append(ratio_db(signal, noise))
    return math.nan if any(map(math.isnan, found)) else min(found, default=math.nan)


def ratio_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, NaN where the noise is."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def float_outputs(outputs: Outputs) -> dict[str, Array]:
    """The outputs that are arrays of floats."""
    return {
        name: value
        for name, value in outputs.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
    }


def _cosine(reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> float:
    """The mean over samples of the cosine between outputs, of the output that suffers most."""
    means = []
    for name in float_outputs(reference[0]):
        found = []
        for left, right in zip(reference, candidate, strict=True):
            a = np.asarray(left[name], np.float64).reshape(-1)
            b = np.asarray(right[name], np.float64).reshape(-1)
            lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
            found.append(float(a @ b) / lengths if lengths else float(not a.any() and not b.any()))
        means.append(float(np.mean(found)))
    return min(means, default=math.nan)


def _classes(outputs: Sequence[Outputs]) -> Array:
    """The class of each row: the largest of the last axis, or of axis 1 of pictures of scores."""
    found = []
    for each in outputs:
        scores = next(iter(float_outputs(each).values()), None)
        axis = 1 if scores is not None and scores.ndim > 3 else -1
        if scores is None or scores.ndim == 0 or scores.shape[axis] < 2:
            raise BadInput(
                "the first output has no scores of classes to choose from",
                hint="use --metric sqnr, cosine or module:function",
            )
        if np.isnan(scores).any():
            raise BadInput("the first output holds NaN", hint="no class can be told from it")
        found.append(scores.argmax(axis=axis).reshape(-1))
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scores of classes to be paired with errors: float64 [samples, classes] and [errors, classes].

    A hundred samples can't show a loss of half a percent; ten thousand pairs of a sample and an
    error can. The first samples are those that the errors were seen on.
    """

    scores: Array
    errors: Array

    @classmethod
    def of(
        cls,
        reference: Sequence[Outputs],
        candidate: Sequence[Outputs],
        others: Sequence[Outputs],
    ) -> _Rows | None:
        """None where the outputs are no rows of scores, or too many to be paired."""
        left, right, more = _rows(reference), _rows(candidate), _rows(others)
        if left is None or right is None or left.size * len(left) > _MOST_PAIRED:
            return None
        if more is None or left.shape[1] != more.shape[1]:
            return cls(left, right - left)
        most = max(0, _MOST_PAIRED // left.size - len(left))
        return cls(np.concatenate([left, more[:most]]), right - left)

    def changes(self) -> float:
        """The share of classes that are expected to change, and a standard error more.

        A class changes where the error takes more from its lead over the runner-up than there is.
        Few samples have so small a lead, so that to count them would be chance; but about evenly
        many have each small lead, and how many that are a fifth of the samples tells well enough.
        What is seen on the samples themselves counts too, less what may be chance in it.
        """
        places = np.arange(len(self.scores))
        first, second = np.argsort(-self.scores, axis=1)[:, :2].T
        leads = np.sort(self.scores[places, first] - self.scores[places, second])
        near = min(len(leads), max(_NEAR, len(leads) // 5))
        seen = self._seen()
        if leads[near - 1] == 0:
            return seen
        lost = np.maximum(self.errors[:, second] - self.errors[:, first], 0.0)
        density = near / len(leads) / leads[near - 1]
        expected = density * float(lost.mean()) * (1 + 1 / math.sqrt(near))
        error = math.sqrt(seen * (1 - seen) / len(self.errors))
        return float(min(1.0, max(expected, seen - 2 * error)))

    def _seen(self) -> float:
        """The share of the samples with an error whose class changes."""
        scores = self.scores[: len(self.errors)]
        return float(np.mean(scores.argmax(axis=1) != (scores + self.errors).argmax(axis=1)))

    def right(self, labels: Array) -> float:
        """The share of samples, as many as there are labels, that are expected to be right."""
        scores = self.scores[: labels.size]
        found = [np.mean((scores + error).argmax(axis=1) == labels) for error in self.errors]
        return float(np.mean(found))


def _rows(outputs: Sequence[Outputs]) -> Array | None:
    firsts = [next(iter(float_outputs(each).values())) for each in outputs]
    if not firsts or any(first.ndim != 2 for first in firsts):
        return None
    return np.concatenate(firsts).astype(np.float64)


def _top1(left: Array, right: Array, labels: Array, rows: _Rows | None) -> Score:
    if labels.size != left.size:
        raise BadInput(
            f"there are {labels.size} labels for {left.size} samples",
            hint="give a label for each sample, in the order of the data",
        )
    before, after = float(np.mean(left == labels)), float(np.mean(right == labels))
    expected = after if rows is None else rows.right(labels)
    return Score("top1", before, after, before - expected, left.size)


def _called(
    function: CustomMetric, name: str, outputs: Sequence[Outputs], feeds: Sequence[Feed]
) -> float:
    try:
        return float(function(list(outputs), list(feeds)))
    except Exception as error:  # the user's own code
        raise BadInput(
            f"the metric {name} failed: {type(error).__name__}: {error}",
            hint="it gets a list of outputs (dicts of arrays) and a list of feeds, and gives a"
            " number",
        ) from error
