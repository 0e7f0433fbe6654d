"""What a user may choose about a distillation, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnxopt.errors import BadInput

LOSSES = ("auto", "kl", "mse", "cosine")
AUTO = "auto"
SAME = "same"
MATCHES = (SAME, AUTO)
WORK = 1.2e13
"""Floating-point operations of the student's forward passes where the user names no length: about
ten to fifteen minutes on two cores."""
FEWEST_EPOCHS, MOST_EPOCHS = 5, 150
"""Passes over the data, however much work these are."""
MATCH_WEIGHT = 1.0
BATCH = 16
HELD = 0.2
"""The share, and so the samples, that prune keeps apart too: a student that was made from some
says little on those. Of what quantize was calibrated on some are among them."""

Augment: TypeAlias = "str | Callable[..., Mapping[str, Any]]"


@dataclass(frozen=True, slots=True)
class Settings:
    """The choices of one distillation; `api_distill.distill` says what each is.

    `match` holds pairs of names, the teacher's first, or is "same" or "auto". Of `epochs`,
    `minutes` and `steps` at most one is set. `held` is the share of samples that is kept apart.
    """

    loss: str = AUTO
    temperature: float | None = None
    match: tuple[tuple[str, str], ...] | str = SAME
    match_weight: float = MATCH_WEIGHT
    epochs: float | None = None
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    batch: int = BATCH
    augment: Augment = AUTO
    held: float = HELD
    patience: int = 0
    average: bool = True
    frozen: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    checkpoint: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        lengths = [each for each in (self.epochs, self.minutes, self.steps) if each is not None]
        if len(lengths) > 1:
            raise BadInput(
                "the length of the training is given twice",
                hint="give one of epochs, minutes and steps",
            )
        if self.loss not in LOSSES:
            raise BadInput(
                f"there is no loss {self.loss!r}", hint=f"choose from {', '.join(LOSSES)}"
            )
        if isinstance(self.match, str) and self.match not in MATCHES:
            raise BadInput(
                f"{self.match!r} is no match", hint="write TEACHER=STUDENT, same, auto or none"
            )
        if self.resume and self.checkpoint is None:
            raise BadInput("there is nothing to resume from", hint="name it with --checkpoint FILE")
        self._check_numbers()

    def _check_numbers(self) -> None:
        above = {
            "length": next(
                (n for n in (self.epochs, self.minutes, self.steps) if n is not None), 1
            ),
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "learning rate": 1.0 if self.learning_rate is None else self.learning_rate,
            "batch": self.batch,
        }
        for name, number in above.items():
            if not 0 < number < math.inf:
                raise BadInput(f"the {name} can't be {number}", hint="give a number above 0")
        if not 0 < self.held < 1:
            raise BadInput(
                f"the share that is kept apart can't be {self.held}", hint="0.2 keeps each fifth"
            )
        if not 0 <= self.match_weight < math.inf:
            raise BadInput(
                f"the weight of matches can't be {self.match_weight}", hint="give 0 or more"
            )
