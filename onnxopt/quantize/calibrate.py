"""The range of every activation, from data, in memory bounded by the graph and not by the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.quantize.ahead import in_order, runs_at_once
from onnxopt.quantize.cache import Store
from onnxopt.quantize.clipping import METHODS, WITH_HISTOGRAM, clipping
from onnxopt.quantize.observe import (
    BUDGET_BYTES,
    Activations,
    Observer,
    Prepared,
    activations,
    refuse_not_finite,
)
from onnxopt.quantize.records import Range
from onnxopt.quantize.spool import numbered, repeatable
from onnxopt.quantize.stacking import Grouping
from onnxopt.quantize.tally import Reading, Tally

Array = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = "Callable[[float, str], None]"
"""Called with the share that is done, 0 where it is not known, and a word on what is going on."""

Values: TypeAlias = "Iterator[tuple[str, Array]]"

Follower: TypeAlias = "tuple[str, float, float]"
"""A value that is another one, moved and clipped: its name and the bounds."""

__all__ = ["METHODS", "Progress", "collect"]


def collect(
    model: ir.Model,
    feeds: Iterable[Feed],
    *,
    method: str = "minmax",
    tensors: Sequence[str] | None = None,
    percentile: float = 99.99,
    cache: Path | None = None,
    progress: Progress | None = None,
    threads: int = 0,
    budget_bytes: int = BUDGET_BYTES,
) -> dict[str, Range]:
    """The range of each float32 activation of the main graph, by name, in graph order.

    The data is read once; a `cache` reads it once more to know it again. The values of one run are
    held, as many as fit in `budget_bytes`, and with more than one thread those of the next, which
    runs meanwhile. Small samples run a few at a time where the model is seen to keep them apart.
    What only moves or clips another value is worked out from that one.

    Args:
        model: A float model; it is not changed.
        feeds: The samples, see check.data.read_data. One that can be read only once is copied to
            disk where it is needed twice.
        method: "minmax": the smallest and the largest number; "average": the mean of those over the
            samples; "percentile": all but the share outside of `percentile`, half of it on either
            side; "entropy": the range on which 8 bits lose the least information; "mse": the one on
            which they make the smallest squared error.
        tensors: Names of values, all of them by default. A value that is empty in every sample has
            no range.
        percentile: Percent of the elements to keep, for that method.
        cache: A folder for what was found, by the content of model and data. An interrupted run
            leaves there what it has, and the next one goes on from there.
        progress: Called before each sample.
        threads: Threads to run the model with, 0 for as many as there are processors.
        budget_bytes: How much one run of the model may hand out.

    Raises:
        BadInput: The method, percentile or a name is unknown; there is no data, or it does not fit;
            a value is NaN or infinite; the model has no float32 values; all values are empty.
        RuntimeFailed: onnxruntime can't load or run the model.
        BadOutput: The cache can't be written.
    """
    cut = clipping(method, percentile)
    found = activations(model)
    names = found.choose(tensors)
    tallies = _tallies(
        found, names, feeds, method in WITH_HISTOGRAM, cache, progress, threads, budget_bytes
    )
    if not any(tallies[name].filled for name in names):
        raise BadInput("every value is empty in every sample", hint="give samples with elements")
    return {name: cut(tallies[name]) for name in names if tallies[name].filled}


def _tallies(
    found: Activations,
    names: Sequence[str],
    feeds: Iterable[Feed],
    histogram: bool,
    cache: Path | None,
    progress: Progress | None,
    threads: int,
    budget_bytes: int,
) -> Mapping[str, Tally]:
    """The tally of each value over all feeds, as far as they are not known from before."""
    tallies: dict[str, Tally] = {}
    store: Store | None = None
    if cache is not None:
        feeds = repeatable(feeds)
        store = Store.of(cache, found.model, feeds)
        tallies = store.load()
    count = store.feeds if store is not None else None
    missing = [name for name in names if not _is_known(tallies.get(name), count, histogram)]
    for name in missing:
        tally = tallies.get(name)
        if tally is None or (histogram and tally.histogram is None):
            tallies[name] = Tally()
    if not missing:
        return tallies
    total = count or (len(feeds) if isinstance(feeds, Sized) else 0)
    at_once = runs_at_once(threads, total)
    gatherer = _Gatherer(found, missing, tallies, histogram, threads, at_once, budget_bytes)

    def waiting() -> Iterator[tuple[int, Feed]]:
        done = min(tallies[name].feeds for name in missing)
        for number, feed in numbered(feeds, expected=count):
            if number <= done:
                continue
            if progress is not None:
                share = (number - 1) / total if total else 0.0
                progress(share, f"calibrating, sample {number}")
            yield number, feed
            del feed

    try:
        gatherer.gather(waiting())
    finally:
        if store is not None:
            store.save(tallies)
    return tallies


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples that run as one, and the number of the first of them."""

    first: int
    group: Sequence[Feed]
    prepared: Prepared


def _ran(run: _Run) -> Values | RuntimeFailed:
    """What a run hands out, or why there is none: the caller knows what to do then."""
    try:
        return run.prepared.rows()
    except RuntimeFailed as error:
        return error


@dataclass(frozen=True, slots=True)
class _Read:
    """What a run told: of each value that was looked at, and of all those that are made from it.

    `nbytes` is what the run handed out.
    """

    roots: Mapping[str, Reading]
    parts: Mapping[str, Tally]
    nbytes: int


class _Gatherer:
    """Runs samples and adds what their values say to the tallies."""

    def __init__(
        self,
        found: Activations,
        names: Sequence[str],
        tallies: dict[str, Tally],
        histogram: bool,
        threads: int,
        at_once: int,
        budget_bytes: int,
    ) -> None:
        self._tallies = tallies
        # A run that was interrupted may have added samples already, to some of them.
        self._known = {name: tally.feeds for name, tally in tallies.items()}
        self._histogram = histogram
        self._families = followers(found, names)
        self._at_once = at_once
        self._observer = Observer(
            found,
            list(self._families),
            threads=threads,
            at_once=at_once,
            budget_bytes=budget_bytes,
        )
        self._grouping = Grouping(self._observer.inputs, self._extremes)

    def gather(self, feeds: Iterable[tuple[int, Feed]]) -> None:
        """Add all samples; those that are in a tally already are left out of it."""
        # Counting for histograms keeps Python's lock: two threads would wait for each other.
        work, begun = (_ran, self._at_once - 1) if self._histogram else (self._told, self._at_once)
        items = self._prepared(feeds)
        with closing(in_order(work, items, self._at_once, begun_ahead=begun)) as ran:
            for run, read in ran:
                try:
                    self._add(run.group, run.first, self._done(run, read))
                except RuntimeFailed:
                    if len(run.group) == 1:
                        raise
                    self._grouping.give_up()
                    for number, feed in enumerate(run.group, run.first):
                        rows = self._observer.rows([feed], number)
                        self._add([feed], number, self._read(rows, number))
                del run, read

    def _prepared(self, feeds: Iterable[tuple[int, Feed]]) -> Iterator[_Run]:
        for first, group in self._grouping.groups(feeds):
            yield _Run(first, group, self._observer.prepared(group, first))
            del group

    def _told(self, run: _Run) -> _Read | Values | RuntimeFailed:
        """What a run tells, or why it does not; the values where they run when asked for."""
        values = _ran(run)
        if run.prepared.in_parts or isinstance(values, RuntimeFailed):
            return values
        return self._read(values, run.first)

    def _done(self, run: _Run, found: _Read | Values | RuntimeFailed) -> _Read:
        if isinstance(found, RuntimeFailed):
            raise found
        return found if isinstance(found, _Read) else self._read(found, run.first)

    def _read(self, values: Values, first: int) -> _Read:
        """Look at each value and let it go; `first` is the number of the first sample."""
        roots: dict[str, Reading] = {}
        parts: dict[str, Tally] = {}
        nbytes = 0
        for root, rows in values:
            nbytes += rows.nbytes
            bounds = [(low, high) for _, low, high in self._families[root]]
            reading = Reading.of(rows, histogram=self._histogram, bounds=bounds)
            wrong = reading.not_finite
            if wrong is not None:
                refuse_not_finite(root, rows[wrong], first + wrong)
            for follower in self._families[root]:
                part = self._part(follower, rows, reading, first)
                if part is not None:
                    parts[follower[0]] = part
            roots[root] = replace(reading, histogram=None, finer={})
            del rows
        return _Read(roots, parts, nbytes)

    def _part(self, follower: Follower, rows: Array, own: Reading, first: int) -> Tally | None:
        """What the samples say of a value that the tally does not have yet."""
        name, low, high = follower
        known = max(0, self._known[name] - (first - 1))
        if known >= len(rows):
            return None
        part: Reading | None = None if known else own.clipped(low, high)
        if part is None:
            part = Reading.of(np.clip(rows[known:], low, high), histogram=self._histogram)
        return part.tally()

    def _add(self, group: Sequence[Feed], first: int, read: _Read) -> None:
        for name, part in read.parts.items():
            self._tallies[name] = self._tallies[name] + part
        self._grouping.learn(group, first, read.roots, read.nbytes // len(group))

    def _extremes(self, group: Sequence[Feed], first: int) -> dict[str, Reading]:
        return {
            name: Reading.of(rows, histogram=False)
            for name, rows in self._observer.rows(group, first)
        }


def _is_known(tally: Tally | None, count: int | None, histogram: bool) -> bool:
    if tally is None or count is None or tally.feeds != count:
        return False
    return tally.histogram is not None or not histogram


def followers(found: Activations, names: Iterable[str]) -> dict[str, list[Follower]]:
    """The names in groups, under the one that the others of the group are made from.

    A value that a Reshape or the like moves has the elements of its source, and one behind a Relu
    or Clip those of its source within bounds, so that the source alone has to be looked at.
    """
    wanted = set(names)
    roots: dict[str, Follower] = {}
    groups: dict[str, list[Follower]] = {}
    for name in (name for name in found.values if name in wanted):
        step = _step(found.values[name])
        if step is not None and step[0] in roots:
            root, low, high = roots[step[0]]
            low, high = (max(step[1], min(step[2], bound)) for bound in (low, high))
        else:
            root, low, high = name, -math.inf, math.inf
        roots[name] = (root, low, high)
        groups.setdefault(root, []).append((name, low, high))
    return groups


def _step(value: ir.Value) -> Follower | None:
    """The value that this one is made from, and the bounds that it is clipped to."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.name is None or not ops.is_standard(node):
        return None
    if node.op_type in ops.SHAPE_MOVING - {"Expand"}:
        return source.name, -math.inf, math.inf
    if node.op_type == "Relu":
        return source.name, 0.0, math.inf
    if node.op_type == "Clip":
        low, high = _bound(node, 1, "min", -math.inf), _bound(node, 2, "max", math.inf)
        return None if low is None or high is None or low > high else (source.name, low, high)
    return None


def _bound(node: ir.Node, slot: int, attribute: str, default: float) -> float | None:
    """A bound of a Clip; None where it is computed."""
    given = node.attributes.get(attribute)
    if given is not None:
        return None if given.is_ref() else given.as_float()
    value = node.inputs[slot] if slot < len(node.inputs) else None
    if value is None:
        return default
    tensor = ops.constant(value)
    return None if tensor is None else float(tensor.numpy().reshape(-1)[0])
