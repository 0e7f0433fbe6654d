"""The training loop: batches, teacher, loss, AdamW, averages, held samples, checkpoints."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch

from onnxopt.check.inputs import Feed
from onnxopt.distill import checkpoint
from onnxopt.distill.augment import augmenter, takes_parts, varied
from onnxopt.distill.centres import Centre
from onnxopt.distill.kernels import Tensor
from onnxopt.distill.losses import Pair, loss_of, softening
from onnxopt.distill.module import GraphModule
from onnxopt.distill.samples import Samples
from onnxopt.distill.schedule import LOOKS, Clock, factor, peak, time_text
from onnxopt.distill.settings import Settings
from onnxopt.distill.steps import Steps
from onnxopt.distill.teacher import Targets, Teacher
from onnxopt.errors import BadInput

Progress: TypeAlias = "Callable[[float, str], None]"
Weights: TypeAlias = "list[Tensor]"

DONE, EARLY, INTERRUPTED, DIVERGED = "done", "early", "interrupted", "diverged"
_AVERAGED = 0.1
_NOTHING = 1e-6
"""What float32 rounds away in a loss."""
_TOO_FAR = 3.0
"""A held loss of so many times the best one says that the learning rate is too high."""
_IN_VAIN = 3
_WORSE = 1.01
"""So many looks in a row, each worse than the best one by so much, say the same."""
_SLOWER = 3.0
_PIECES = 128
"""In so many pieces held samples are looked at to tell a gain from chance."""


@dataclass(frozen=True, slots=True)
class Point:
    """What was seen after a step: mean training loss since the last look, loss on held samples."""

    step: int
    seconds: float
    training: float | None
    held: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Course:
    """How a training went. `stopped` is "done", "early", "interrupted" or "diverged".

    `doubtful` tells that the best weights were better by no more than chance, and not kept.
    """

    curve: tuple[Point, ...]
    best: Point
    steps: int
    seconds: float
    stopped: str
    doubtful: bool = False


class Trainer:
    """Trains the weights of one student; `module` holds the best ones after `run`."""

    def __init__(
        self,
        module: GraphModule,
        teacher: Teacher,
        pairs: Sequence[Pair],
        samples: Samples,
        settings: Settings,
        *,
        centres: Sequence[Centre] = (),
        facts: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._module = module
        self._teacher = teacher
        self._pairs = pairs
        self._samples = samples
        self._settings = settings
        self._facts = facts
        self._say = progress
        self._parts = samples.photos and takes_parts(settings.augment)
        (sample,) = samples.stacked(samples.training[:1])
        self._change = augmenter(settings.augment, sample, cropped=self._parts)
        work = module.work(sample) * len(samples.training)
        self._clock = Clock.of(settings, samples.steps(settings.batch), work)
        self._weights: Weights = list(module.parameters())
        self._rate = settings.learning_rate or peak(len(samples.training))
        self._steps = Steps(self._weights, self._rate, centres)
        self._average = [weight.detach().clone() for weight in self._weights]
        self._start = [weight.detach().clone() for weight in self._weights]
        self._step = 0
        self._slowed = 0
        self._temperature = settings.temperature or 1.0
        self._losses: list[float] = []
        self._curve: list[Point] = []
        self._held: list[tuple[Mapping[str, Tensor], Targets, int]] = []
        self._best: tuple[Point, Weights] | None = None

    def run(self) -> Course:
        """Train to the end, to an early stop, to a loss that is not finite, or to an interrupt.

        Raises BadInput where the loss is not finite before any weights were better.
        """
        self._prepare()
        stopped = DONE
        with _interrupts() as asked:
            for batch in self._batches():
                self._train_on(batch)
                if not math.isfinite(self._losses[-1]):
                    stopped = DIVERGED
                    break
                if self._due():
                    self._look()
                    self._keep()
                    if self._stale():
                        stopped = EARLY
                        break
                if asked.is_set():
                    self._keep()
                    stopped = INTERRUPTED
                    break
        assert self._best is not None
        point, best = self._best
        if stopped == DIVERGED and point.step == 0:
            raise BadInput(
                f"the loss was not finite after {self._step} steps, before anything was learned",
                hint="take a smaller learning rate, and look for NaN in the data",
            )
        doubtful = point.step > 0 and not self._is_sure(best)
        if doubtful:
            point, best = self._curve[0], self._start
        self._set(best)
        return Course(tuple(self._curve), point, self._step, self._clock.elapsed, stopped, doubtful)

    def _is_sure(self, best: Weights) -> bool:
        """Whether held samples gain more than the standard error of their mean gain.

        The best of twenty looks is better than the first one by chance, too.
        """
        gains = np.subtract(self._losses_with(self._start), self._losses_with(best))
        return len(gains) < 2 or gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains))

    def _losses_with(self, weights: Weights) -> list[float]:
        """The losses of held samples, or of a few of them together where these are many."""
        self._set(weights)
        held, found = self._samples.held, []
        size = -(-len(held) // _PIECES)
        with torch.no_grad():
            for start in range(0, len(held), size):
                for feed in self._samples.stacked(held[start : start + size]):
                    inputs, answers = self._module.tensors(feed), self._teacher.answers(feed)
                    found.append(float(self._loss(inputs, answers, inner=False)))
        return found

    def _prepare(self) -> None:
        for start in range(0, len(self._samples.held), self._settings.batch):
            feeds = self._samples.held[start : start + self._settings.batch]
            for feed in self._samples.stacked(feeds):
                answers = self._teacher.answers(feed)
                outputs = {p.teacher: answers[p.teacher] for p in self._pairs if not p.inner}
                self._held.append((self._module.tensors(feed), outputs, _count(feed)))
        if self._settings.temperature is None:
            self._temperature = softening(self._pairs, [answers for _, answers, _ in self._held])
        path = self._settings.checkpoint
        if path is not None and path.exists():
            self._restore(checkpoint.read(path, self._facts))
        else:
            self._look()
            if not math.isfinite(self._curve[0].held):
                raise BadInput(
                    "the loss of the student is not finite before any training",
                    hint="look for NaN or infinity in the outputs of teacher and student",
                )

    def _batches(self) -> Iterator[list[Feed]]:
        """Batches until the time is over, from where the training stands."""
        size = self._settings.batch
        count = self._samples.steps(size)
        while self._clock.share(self._step) < 1:
            epoch, done = divmod(self._step, count)
            for place, batch in enumerate(self._samples.batches(self._settings.seed, epoch, size)):
                if place < done:
                    continue
                if self._clock.share(self._step) >= 1:
                    return
                yield batch

    def _train_on(self, batch: Sequence[Feed]) -> None:
        rate = self._rate * factor(self._clock.share(self._step))
        self._module.zero_grad(set_to_none=True)
        total = 0.0
        random = np.random.default_rng([self._settings.seed, self._step])
        parts = self._samples.stacked(batch, random if self._parts else None)
        if self._change is not None:
            parts = varied(parts, self._change, random)
        for feed in parts:
            loss = self._loss(self._module.tensors(feed), self._teacher.answers(feed), inner=True)
            loss = loss * (_count(feed) / _counts(parts))
            loss.backward()
            total += float(loss.detach())
        self._losses.append(total)
        if math.isfinite(total):
            self._steps.take(rate)
            self._step += 1
            self._follow()
            self._tell(total)

    def _loss(self, inputs: Mapping[str, Tensor], answers: Targets, *, inner: bool) -> Tensor:
        return loss_of(
            self._pairs if inner else [pair for pair in self._pairs if not pair.inner],
            self._module(inputs),
            answers,
            temperature=self._temperature,
            inner_weight=self._settings.match_weight,
        )

    def _follow(self) -> None:
        """Move the average over about the last tenth of the steps."""
        share = 1 / (1 + _AVERAGED * self._step) if self._settings.average else 1.0
        with torch.no_grad():
            for mean, weight in zip(self._average, self._weights, strict=True):
                mean.lerp_(weight, share)

    def _due(self) -> bool:
        """Whether it is time to look at the held samples: twenty times, and at the end."""
        share = self._clock.share(self._step)
        return share >= 1 or int(share * LOOKS) > int(self._looked * LOOKS)

    def _look(self) -> None:
        """Measure the averaged weights on the held samples."""
        self._looked = self._clock.share(self._step)
        training = [weight.detach().clone() for weight in self._weights]
        self._set(self._average)
        total = 0.0
        with torch.no_grad():
            for inputs, answers, count in self._held:
                total += float(self._loss(inputs, answers, inner=False)) * count
        held = total / sum(count for *_, count in self._held)
        mean = math.fsum(self._losses) / len(self._losses) if self._losses else None
        point = Point(
            self._step,
            self._clock.elapsed,
            mean,
            held,
            self._rate * factor(self._looked),
        )
        self._losses = []
        self._curve.append(point)
        if self._best is None or held < self._best[0].held - _NOTHING:
            self._best = point, [weight.detach().clone() for weight in self._average]
        self._set(training)
        if held > _TOO_FAR * self._best[0].held or self._in_vain():
            self._back_off()

    def _in_vain(self) -> bool:
        """Whether training leads nowhere, as where a student was fitted well before."""
        assert self._best is not None
        since = [point.held for point in self._curve if point.step > self._slowed][-_IN_VAIN:]
        return len(since) == _IN_VAIN and min(since) > _WORSE * self._best[0].held

    def _back_off(self) -> None:
        """Go back to the best weights, and on from there at a lower rate."""
        assert self._best is not None
        self._rate /= _SLOWER
        self._slowed = self._step
        self._set(self._best[1])
        with torch.no_grad():
            for mean, best in zip(self._average, self._best[1], strict=True):
                mean.copy_(best)

    def _stale(self) -> bool:
        """Whether the last looks brought nothing better."""
        assert self._best is not None
        since = sum(point.step > self._best[0].step for point in self._curve)
        return 0 < self._settings.patience <= since

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)

    def _tell(self, loss: float) -> None:
        assert self._best is not None
        held = f"held {self._curve[-1].held:.4g} (best {self._best[0].held:.4g})"
        left = time_text(self._clock.left(self._step))
        self._say(self._clock.share(self._step), f"training: loss {loss:.4g}, {held}, {left} left,")

    def _keep(self) -> None:
        """Write the checkpoint, if there is to be one."""
        path = self._settings.checkpoint
        if path is None or self._best is None:
            return
        point, best = self._best
        state = {
            "step": self._step,
            "seconds": self._clock.elapsed,
            "looked": self._looked,
            "rate": self._rate,
            "slowed": self._slowed,
            "losses": self._losses,
            "curve": [asdict(each) for each in self._curve],
            "best": asdict(point),
            "weights": [weight.detach().cpu() for weight in self._weights],
            "average": [weight.cpu() for weight in self._average],
            "best_weights": [weight.cpu() for weight in best],
            "optimizer": self._steps.state(),
        }
        checkpoint.write(path, self._facts, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._step, self._looked, self._rate = state["step"], state["looked"], state["rate"]
        self._slowed = state["slowed"]
        self._clock.before = state["seconds"]
        self._losses = list(state["losses"])
        self._curve = [Point(**each) for each in state["curve"]]
        self._set(state["weights"])
        for mean, held in zip(self._average, state["average"], strict=True):
            mean.copy_(held)
        device = self._module.device
        self._best = Point(**state["best"]), [each.to(device) for each in state["best_weights"]]
        self._steps.restore(state["optimizer"])


def _count(feed: Feed) -> int:
    sizes = [len(value) for value in feed.values() if np.ndim(value)]
    return max(sizes, default=1)


def _counts(feeds: Sequence[Feed]) -> int:
    return sum(_count(feed) for feed in feeds)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, between two steps; the second one raises."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def trained(student: ir.Model, module: GraphModule) -> ir.Model:
    """A copy of the student with the module's weights in the places of its own."""
    from onnxopt.distill.weights import put_back

    copy = student.clone()
    put_back(copy, module.arrays())
    return copy
