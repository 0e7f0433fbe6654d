"""The rounds of a timing: every side in a fresh session, one at a time, in changing order.

In each round every side is opened, warmed up, timed over a block of calls and closed. Only one
session lives at a time and each starts when the process has gone quiet, because an idle session's
thread pool goes on spinning and would disturb its neighbour.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxopt.bench.statistics import (
    MIN_ROUNDS,
    log_ratios,
    median_interval,
    noise_floor,
    settled,
)
from onnxopt.errors import BadInput
from onnxopt.runtime.providers import Provider
from onnxopt.runtime.sessions import Session

Feed: TypeAlias = "Mapping[str, Any]"
Progress: TypeAlias = "Callable[[float, str], None]"
"""Called with the share of the time that is used up, 0 to 1, and what is being done."""

MAX_ROUNDS = 60
_BLOCK_SECONDS = 0.06
_WARM_UP_SECONDS = 0.03
_MAX_CALLS = 1000
_MIN_CALLS = 2
_SLOW_SECONDS = 0.25
_QUIET_STEP_SECONDS = 0.01
_QUIET_LIMIT_SECONDS = 0.3


@dataclass(slots=True)
class Entrant:
    """A side while it is being timed: a file, and all its times in seconds."""

    name: str
    path: Path
    file_bytes: int
    create: list[float] = field(default_factory=list)
    blocks: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        """The median time of a call, block by block."""
        return [float(np.median(block)) for block in self.blocks]


class Trial:
    """What is the same for every side, and what was seen on the way."""

    def __init__(self, feeds: Sequence[Feed], providers: Sequence[Provider], threads: int) -> None:
        self.feeds = feeds
        self.providers = providers
        self.threads = threads
        self.calls = 0
        self.inputs: frozenset[str] | None = None
        self.used: tuple[str, ...] = ()
        self.notes: dict[str, None] = {}

    def run(self, entrants: Sequence[Entrant], seconds: float, progress: Progress) -> int:
        """Time every entrant once a round, and say how many rounds it took.

        It ends when the verdicts are settled or another round would not fit into `seconds`. The
        first entrant is the twin of the second, the reference; the others are compared with it.
        """
        collecting = gc.isenabled()
        gc.disable()
        start = time.perf_counter()
        try:
            for done in range(MAX_ROUNDS):
                used = time.perf_counter() - start
                late = done > 0 and used * (done + 1) / done > seconds
                if late or _settled(entrants, done):
                    return done
                for entrant in _order(entrants, done):
                    spent = (time.perf_counter() - start) / seconds
                    progress(min(spent, 1.0), f"timing {entrant.name}")
                    self._block(entrant)
            return MAX_ROUNDS
        finally:
            if collecting:
                gc.enable()

    def _block(self, entrant: Entrant) -> None:
        """Open the model in a fresh session, warm it up, and time a block of calls."""
        _wait_until_quiet()
        start = time.perf_counter()
        session = Session.open(
            entrant.path, optimize=True, providers=self.providers, threads=self.threads
        )
        create = time.perf_counter() - start
        self._check(session, entrant)
        call = self._warm_up(session)
        if not self.calls:
            least = _MIN_CALLS if call < _SLOW_SECONDS else 1
            self.calls = max(least, min(_MAX_CALLS, math.ceil(_BLOCK_SECONDS / call)))
        times = [self._call(session) for _ in range(self.calls)]
        entrant.create.append(create)
        entrant.blocks.append(times)

    def _check(self, session: Session, entrant: Entrant) -> None:
        inputs = frozenset(signature.name for signature in session.inputs)
        if self.inputs is None:
            self.inputs, self.used = inputs, session.providers
        if inputs != self.inputs:
            odd = ", ".join(sorted(inputs ^ self.inputs))
            raise BadInput(
                f"{entrant.name} does not have the inputs of the reference: {odd}",
                hint="only models with the same inputs can be timed against each other",
            )
        missing = sorted(inputs - self.feeds[0].keys())
        if missing:
            raise BadInput(
                f"the feeds do not have the input {missing[0]!r} of {entrant.name}",
                hint=f"give an array for each of {', '.join(sorted(inputs))}",
            )
        for provider in session.fallen_back:
            self.notes[f"{entrant.name}: onnxruntime left out {provider}"] = None

    def _warm_up(self, session: Session) -> float:
        """Call until the session is warm; the seconds of the fastest call."""
        start = time.perf_counter()
        fastest = self._call(session)
        while fastest < _SLOW_SECONDS:
            fastest = min(fastest, self._call(session))
            if time.perf_counter() - start > _WARM_UP_SECONDS:
                break
        return fastest

    def _call(self, session: Session) -> float:
        """The seconds of a run, as the mean over the feeds."""
        start = time.perf_counter()
        for feed in self.feeds:
            session.run(feed)
        return (time.perf_counter() - start) / len(self.feeds)


def _order(entrants: Sequence[Entrant], done: int) -> list[Entrant]:
    """Another order in every round: rotated, and every second time backwards."""
    shift = (done // 2) % len(entrants)
    order = [*entrants[shift:], *entrants[:shift]]
    return order[::-1] if done % 2 else order


def _settled(entrants: Sequence[Entrant], done: int) -> bool:
    if done < MIN_ROUNDS:
        return False
    twin, reference, *others = (entrant.medians() for entrant in entrants)
    itself = log_ratios(reference, twin)
    floor = noise_floor(median_interval(itself))
    ratios = [log_ratios(reference, other) for other in others]
    return all(settled(ratio, floor) for ratio in ratios or [itself])


def _wait_until_quiet() -> None:
    """Sleep until no thread of this process computes any more."""
    quiet = 0
    deadline = time.perf_counter() + _QUIET_LIMIT_SECONDS
    while quiet < 2 and time.perf_counter() < deadline:
        busy = time.process_time()
        time.sleep(_QUIET_STEP_SECONDS)
        busy = time.process_time() - busy
        quiet = quiet + 1 if busy < _QUIET_STEP_SECONDS / 5 else 0
