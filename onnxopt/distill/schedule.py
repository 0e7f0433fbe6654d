"""How long a training is, how far it is, and the learning rate there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from onnxopt.distill.settings import FEWEST_EPOCHS, MOST_EPOCHS, WORK, Settings

WARM_UP = 0.05
RATE, MOST_RATE = 5e-4, 1.5e-3
"""Peaks of the learning rate for few samples and for many, as shares of a weight's size. Few are
soon known by heart at a high rate; with thousands it gets as far in a third of the steps."""
FEW = 320
"""Samples up to which the rate is the lower one; from there on it grows with their square root."""
LOOKS = 20
"""How often the held samples are looked at in a whole training."""


@dataclass(slots=True)
class Clock:
    """The course of a training whose length is a number of steps, or of minutes.

    `before` are the seconds that it ran in earlier sittings. Where the length is in minutes, the
    course depends on the machine, and two runs differ.
    """

    steps: int | None
    seconds: float | None
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, settings: Settings, steps_an_epoch: int, work_an_epoch: float) -> Clock:
        """The clock that the settings ask for; else as long as a fixed amount of work takes.

        `work_an_epoch` are the floating-point operations of the student's forward passes.
        """
        if settings.minutes is not None:
            return cls(None, settings.minutes * 60)
        if settings.steps is not None:
            return cls(settings.steps, None)
        epochs = settings.epochs
        if epochs is None:
            epochs = min(max(WORK / max(work_an_epoch, 1), FEWEST_EPOCHS), MOST_EPOCHS)
        return cls(max(1, round(epochs * steps_an_epoch)), None)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.before + time.monotonic() - self.started

    def share(self, step: int) -> float:
        """How much is done before this step (counted from 0), 0 to 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, self.elapsed / self.seconds)

    def left(self, step: int) -> float:
        """Seconds that are probably left."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.elapsed)
        share = self.share(step)
        return self.elapsed * (1 - share) / share if share else math.inf


def peak(samples: int) -> float:
    """The highest learning rate for so many samples to train on, where the user names none."""
    return min(RATE * math.sqrt(max(samples / FEW, 1.0)), MOST_RATE)


def factor(share: float) -> float:
    """The learning rate's share of its peak: a short rise, then half a cosine down to nothing."""
    if share < WARM_UP:
        return 0.1 + 0.9 * share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def time_text(seconds: float) -> str:
    """ "40 s", "3 min", "2.5 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
