"""Times models against each other on onnxruntime, and says only what stands clear of the noise.

Time is measured in rounds. In each round every side is opened in a fresh session, warmed up, timed
over a block of calls and closed, in an order that changes from round to round. Only one session
lives at a time and each starts when the process has gone quiet, because an idle session's thread
pool goes on spinning and would disturb its neighbour. The reference runs twice in every round, as
a side of its own and as its own twin: what differs between these two is noise.
"""

from __future__ import annotations

import gc
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import io
from onnxopt.bench import memory
from onnxopt.bench.statistics import (
    MIN_ROUNDS,
    Interval,
    Verdict,
    log_ratios,
    median_interval,
    noise_floor,
    settled,
    verdict,
)
from onnxopt.errors import BadInput
from onnxopt.runtime.providers import CPU, Provider
from onnxopt.runtime.sessions import Session

Feed: TypeAlias = "Mapping[str, Any]"
Progress: TypeAlias = "Callable[[float, str], None]"
"""Called with the share of the time that is used up, 0 to 1, and what is being done."""

MAX_ROUNDS = 60
_BLOCK_SECONDS = 0.06
_WARM_UP_SECONDS = 0.03
_MAX_CALLS = 1000
_MIN_CALLS = 3
_MAX_FEEDS = 8
_SLOW_SECONDS = 0.5
_QUIET_STEP_SECONDS = 0.01
_QUIET_LIMIT_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Side:
    """One model as it was timed.

    `median` is the time of a call in milliseconds with its 95% interval, `p95_ms` the time that 95%
    of the calls took at most, `create_ms` the median time to open a session. `file_bytes` counts
    external data too; `peak_bytes` is None unless asked for. `blocks_ms` are the medians of the
    blocks, one a session.
    """

    name: str
    median: Interval
    p95_ms: float
    create_ms: float
    file_bytes: int
    peak_bytes: int | None
    calls: int
    blocks_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A side against the reference: `speedup` is 2.0 where it takes half the time."""

    name: str
    speedup: Interval
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Timing:
    """What timing found. The first side is the reference; `comparisons` are the others against it.

    `itself` is the reference against its own twin, and `noise_floor` (1.02 means 2%) how far that
    lets chance move a speedup; a verdict other than "no measurable change" needs more. `providers`
    are those that onnxruntime really used.
    """

    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    itself: Interval
    noise_floor: float
    providers: tuple[str, ...]
    threads: int
    rounds: int
    calls_per_block: int
    feeds: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Entrant:
    """A side while it is being timed; times are in seconds."""

    name: str
    path: Path
    create: list[float] = field(default_factory=list)
    blocks: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        return [float(np.median(block)) for block in self.blocks]


def bench(
    models: Sequence[io.Source],
    *,
    names: Sequence[str] | None = None,
    feeds: Iterable[Feed] | None = None,
    providers: Sequence[Provider] = (CPU,),
    threads: int = 0,
    seconds: float = 20.0,
    peak_memory: bool = False,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Timing:
    """Time models on onnxruntime as a user would run them, the first being the reference.

    Args:
        models: Paths (timed as they are) or models in memory; one alone is timed against itself.
        names: What to call them; paths and positions by default.
        feeds: What to run them on, the first 8 at most: a call runs each of them once and counts as
            their mean. One feed is made from the reference's inputs if there are none.
        providers: Execution providers, first choice first.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        seconds: When to stop; a first round is always finished, and less is used where the verdict
            is clear early.
        peak_memory: Measure it too, in a fresh process a side.
        dims, input_shapes, seed: Passed on where a feed is made.
        progress: Told how far it is.

    Raises:
        BadInput: No model, a candidate whose inputs are not the reference's, feeds that do not fit.
        BadModel: A model can't be read.
        RuntimeFailed: onnxruntime can't load or run a model.
    """
    if not models:
        raise BadInput("there is no model to time", hint="give one path or more")
    if seconds <= 0:
        raise BadInput(f"the time to take is {seconds} s", hint="give a number above 0")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        entrants = _entrants(models, names, Path(folder))
        made = feeds if feeds is not None else _made(models[0], dims, input_shapes, seed)
        given = list(itertools.islice(made, _MAX_FEEDS))
        if not given:
            raise BadInput("there is no feed to run the models on", hint="leave the data out")
        trial = _Trial(given, providers, threads)
        rounds = _run(trial, entrants, start, seconds, progress or _silent)
        peaks = [
            memory.peak_bytes(entrant.path, given, providers, threads) if peak_memory else None
            for entrant in entrants[1:]
        ]
        sides = tuple(map(_side, entrants[1:], peaks))
    return _timing(trial, entrants, sides, rounds, time.perf_counter() - start)


class _Trial:
    """What is the same for every side, and what was seen on the way."""

    def __init__(self, feeds: Sequence[Feed], providers: Sequence[Provider], threads: int) -> None:
        self.feeds = feeds
        self.providers = providers
        self.threads = threads
        self.calls = 0
        self.inputs: frozenset[str] | None = None
        self.used: tuple[str, ...] = ()
        self.notes: dict[str, None] = {}

    def block(self, entrant: _Entrant) -> None:
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

    def _check(self, session: Session, entrant: _Entrant) -> None:
        inputs = frozenset(signature.name for signature in session.inputs)
        if self.inputs is None:
            self.inputs, self.used = inputs, session.providers
        if inputs != self.inputs:
            odd = ", ".join(sorted(inputs ^ self.inputs))
            raise BadInput(
                f"{entrant.name} does not have the inputs of the reference: {odd}",
                hint="only models with the same inputs can be timed against each other",
            )
        for provider in session.fallen_back:
            self.notes[f"{entrant.name}: onnxruntime left out {provider}"] = None

    def _warm_up(self, session: Session) -> float:
        """Call until the session is warm; the seconds of the last call."""
        start = time.perf_counter()
        call = self._call(session)
        if call > _SLOW_SECONDS:
            return call
        while True:
            call = self._call(session)
            if time.perf_counter() - start > _WARM_UP_SECONDS:
                return call

    def _call(self, session: Session) -> float:
        """The seconds of a run, as the mean over the feeds."""
        start = time.perf_counter()
        for feed in self.feeds:
            session.run(feed)
        return (time.perf_counter() - start) / len(self.feeds)


def _run(
    trial: _Trial, entrants: Sequence[_Entrant], start: float, seconds: float, progress: Progress
) -> int:
    """Time every entrant once a round until the verdicts are settled or the time is up."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(MAX_ROUNDS):
            used = time.perf_counter() - start
            # The next round takes as long as those before it did.
            late = done > 0 and used * (done + 1) / done > seconds
            if late or _settled(entrants, done):
                return done
            for entrant in _order(entrants, done):
                spent = (time.perf_counter() - start) / seconds
                progress(min(spent, 1.0), f"timing {entrant.name}")
                trial.block(entrant)
        return MAX_ROUNDS
    finally:
        if collecting:
            gc.enable()


def _order(entrants: Sequence[_Entrant], done: int) -> list[_Entrant]:
    """Another order in every round: rotated, and every second time backwards."""
    shift = (done // 2) % len(entrants)
    order = [*entrants[shift:], *entrants[:shift]]
    return order[::-1] if done % 2 else order


def _settled(entrants: Sequence[_Entrant], done: int) -> bool:
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


def _entrants(
    models: Sequence[io.Source], names: Sequence[str] | None, folder: Path
) -> list[_Entrant]:
    """The reference's twin, then the sides in the order given, each as a file."""
    if names is not None and len(names) != len(models):
        raise BadInput(f"{len(models)} models have {len(names)} names", hint="give one name each")
    labels = list(names) if names is not None else [_label(m, i) for i, m in enumerate(models)]
    paths = [_file(model, folder / f"{index}") for index, model in enumerate(models)]
    sides = [_Entrant(label, path) for label, path in zip(labels, paths, strict=True)]
    return [_Entrant(labels[0], paths[0]), *sides]


def _label(model: io.Source, index: int) -> str:
    in_memory = isinstance(model, (bytes, onnx.ModelProto, ir.Model))
    return f"model {index + 1}" if in_memory else str(model)


def _file(model: io.Source, folder: Path) -> Path:
    """The model as a file: timing loads it as often as a user's program would start."""
    if not isinstance(model, (bytes, onnx.ModelProto, ir.Model)):
        return Path(model)
    folder.mkdir()
    path = folder / "model.onnx"
    if isinstance(model, bytes):
        path.write_bytes(model)
        return path
    return io.save(io.load(model), path)


def _made(
    model: io.Source,
    dims: Mapping[str, int] | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    seed: int,
) -> Iterable[Feed]:
    from onnxopt.check.feeds import synthesize

    loaded = io.load(model)
    return synthesize(loaded, seed=seed, count=1, dims=dims or {}, input_shapes=input_shapes or {})


def _side(entrant: _Entrant, peak: int | None) -> Side:
    calls = [call * 1e3 for block in entrant.blocks for call in block]
    blocks = [block * 1e3 for block in entrant.medians()]
    return Side(
        name=entrant.name,
        median=median_interval(blocks),
        p95_ms=float(np.quantile(calls, 0.95)),
        create_ms=float(np.median(entrant.create)) * 1e3,
        file_bytes=_file_bytes(entrant.path),
        peak_bytes=peak,
        calls=len(calls),
        blocks_ms=tuple(blocks),
    )


def _file_bytes(path: Path) -> int:
    info = io.file_info(path)
    return info.graph_bytes + info.external_bytes


def _timing(
    trial: _Trial,
    entrants: Sequence[_Entrant],
    sides: tuple[Side, ...],
    rounds: int,
    seconds: float,
) -> Timing:
    twin, reference, *others = entrants
    itself = median_interval(log_ratios(reference.medians(), twin.medians()))
    floor = noise_floor(itself)
    comparisons = []
    for other in others:
        ratio = median_interval(log_ratios(reference.medians(), other.medians()))
        comparisons.append(
            Comparison(other.name, _as_speedup(ratio), verdict(ratio, floor, rounds))
        )
    notes = list(trial.notes)
    if rounds < MIN_ROUNDS:
        notes.append(
            f"the time was enough for {rounds} of the {MIN_ROUNDS} rounds that a verdict needs"
        )
    return Timing(
        sides=sides,
        comparisons=tuple(comparisons),
        itself=_as_speedup(itself),
        noise_floor=math.exp(floor),
        providers=trial.used,
        threads=trial.threads,
        rounds=rounds,
        calls_per_block=trial.calls,
        feeds=len(trial.feeds),
        seconds=seconds,
        notes=tuple(notes),
    )


def _as_speedup(ratio: Interval) -> Interval:
    return Interval(math.exp(ratio.median), math.exp(ratio.low), math.exp(ratio.high))


def _silent(share: float, doing: str) -> None:
    return None
