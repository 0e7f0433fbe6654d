"""Times models against each other on onnxruntime, and says only what stands clear of the noise.

The reference runs twice in every round, as a side of its own and as its own twin: what differs
between these two is noise.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    verdict,
)
from onnxopt.bench.trial import Entrant, Feed, Progress, Trial
from onnxopt.errors import BadInput
from onnxopt.runtime.providers import CPU, Provider

_MAX_FEEDS = 8


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
        BadInput: No model, a candidate whose inputs are not the reference's, feeds that lack one.
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
        trial = Trial(given, providers, threads)
        left = max(seconds - (time.perf_counter() - start), seconds / 4)
        rounds = trial.run(entrants, left, progress or _silent)
        peaks = [
            memory.peak_bytes(entrant.path, given, providers, threads) if peak_memory else None
            for entrant in entrants[1:]
        ]
        sides = tuple(map(_side, entrants[1:], peaks))
    return _timing(trial, entrants, sides, rounds, time.perf_counter() - start)


def _entrants(
    models: Sequence[io.Source], names: Sequence[str] | None, folder: Path
) -> list[Entrant]:
    """The reference's twin, then the sides in the order given, each as a file."""
    if names is not None and len(names) != len(models):
        raise BadInput(f"{len(models)} models have {len(names)} names", hint="give one name each")
    labels = list(names) if names is not None else [_label(m, i) for i, m in enumerate(models)]
    paths = [_file(model, folder / f"{index}") for index, model in enumerate(models)]
    sizes = [_file_bytes(path) for path in paths]
    sides = list(map(Entrant, labels, paths, sizes))
    return [Entrant(labels[0], paths[0], sizes[0]), *sides]


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


def _side(entrant: Entrant, peak: int | None) -> Side:
    calls = [call * 1e3 for block in entrant.blocks for call in block]
    blocks = [block * 1e3 for block in entrant.medians()]
    return Side(
        name=entrant.name,
        median=median_interval(blocks),
        p95_ms=float(np.quantile(calls, 0.95)),
        create_ms=float(np.median(entrant.create)) * 1e3,
        file_bytes=entrant.file_bytes,
        peak_bytes=peak,
        calls=len(calls),
        blocks_ms=tuple(blocks),
    )


def _file_bytes(path: Path) -> int:
    info = io.file_info(path)
    return info.graph_bytes + info.external_bytes


def _timing(
    trial: Trial,
    entrants: Sequence[Entrant],
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
