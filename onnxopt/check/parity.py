"""Whether two models give the same outputs on the same feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from onnxopt import io
from onnxopt.check.compare import Measure, OutputDifference, measure, measure_types
from onnxopt.check.feeds import synthesize
from onnxopt.check.inputs import Feed
from onnxopt.check.runs import KEEP_BYTES, Runs
from onnxopt.check.sensitivity import Shaker, explains
from onnxopt.config import Exactness
from onnxopt.errors import BadModel, RuntimeFailed
from onnxopt.runtime.providers import CPU, Provider
from onnxopt.runtime.sessions import Session

_ILL_CONDITIONED = "ill-conditioned: the reference moves as much under rounding-size noise"
_RANDOM = "non-deterministic: only type and shape were compared"


@dataclass(frozen=True, slots=True)
class Parity:
    """Whether a candidate agrees with its reference, and the numbers.

    `outputs` are in the reference's order; `deterministic` is False where the reference gives other
    numbers when it runs twice. `runs` counts the feeds compared, `skipped` the made-up sizes that
    the reference refuses. `failure` says why the candidate could not be run at all. `notes` hold
    what else a reader should know.
    """

    passed: bool
    deterministic: bool
    exactness: Exactness
    outputs: tuple[OutputDifference, ...]
    runs: int
    skipped: int = 0
    failure: str = ""
    providers: tuple[str, ...] = (CPU,)
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> OutputDifference | None:
        """The output furthest from its reference, failed ones first; None without outputs."""
        return max(self.outputs, key=lambda out: (not out.passed, out.worst), default=None)


def parity(
    reference: io.Source,
    candidate: io.Source,
    feeds: Iterable[Feed] | None = None,
    *,
    exactness: Exactness = Exactness.CLOSE,
    providers: Sequence[Provider] = (CPU,),
    threads: int = 0,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Parity:
    """Run both models on the same feeds, runtime optimizations off, and compare every output.

    Args:
        reference: The model that is right.
        candidate: The model that must agree with it.
        feeds: Feeds (see check.data.read_data); made up from the reference's signature where None.
        exactness: How far the candidate may move.
        providers: Execution providers of both sides.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        seed: Seed of made-up feeds.
        dims: Sizes of symbolic dims for made-up feeds.
        input_shapes: Shapes of inputs for made-up feeds.

    Raises:
        RuntimeFailed: The reference can't be loaded or run.
        BadInput: The feeds do not fit the reference, or none can be made up.
    """
    if feeds is None:
        feeds = synthesize(
            io.load(reference), seed=seed, dims=dims or {}, input_shapes=input_shapes or {}
        )
    return Reference(reference, feeds, providers=providers, threads=threads).parity(
        candidate, exactness
    )


class Reference:
    """A model that is right, with its outputs, to hold any number of candidates against.

    It runs once a feed; feeds and outputs are kept up to `keep_bytes` and made again beyond.
    Made-up feeds are used where none are given.
    """

    def __init__(
        self,
        model: io.Source,
        feeds: Iterable[Feed] | None = None,
        *,
        providers: Sequence[Provider] = (CPU,),
        threads: int = 0,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._providers = providers
        self._threads = threads
        self._session = self._open(model)
        loaded = io.load(model)
        given = synthesize(loaded) if feeds is None else feeds
        self.runs = Runs(self._session, loaded, given, keep_bytes)
        self._shaker = Shaker(loaded, self._session, self._open)
        self._moves: dict[int, dict[str, list[Measure]]] = {}
        self._steadiness: dict[str, Measure] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs that are compared."""
        return tuple(output.name for output in self._session.outputs)

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """Providers that were asked for and that onnxruntime silently left out."""
        return self._session.fallen_back

    @property
    def used_providers(self) -> tuple[str, ...]:
        """The providers onnxruntime runs on."""
        return self._session.providers

    def parity(self, candidate: io.Source, exactness: Exactness = Exactness.CLOSE) -> Parity:
        """Hold a candidate against the reference; one that does not load or run does not pass.

        Raises:
            RuntimeFailed: The reference can't run the feeds.
            BadInput: The feeds do not fit the reference, or none runs.
        """
        trial = _Trial(self, exactness)
        try:
            session = self._open(candidate)
        except (RuntimeFailed, BadModel) as error:
            return trial.failed(f"the candidate does not load: {error.message}")
        return trial.verdict(session)

    def steadiness(self, feed: Feed, outputs: Sequence[Any]) -> Mapping[str, Measure]:
        """How far each output moves when a feed runs again; those that keep every bit are left out.

        Only the feed of the first call is run.
        """
        if self._steadiness is None:
            again = self._session.run(feed)
            found = {
                name: (measure(left, right, Exactness.EXACT), measure(left, right, Exactness.CLOSE))
                for name, left, right in zip(self.names, outputs, again, strict=True)
            }
            self._steadiness = {
                name: close for name, (exact, close) in found.items() if not exact.passed
            }
        return self._steadiness

    def moves(self, index: int, feed: Feed, outputs: Sequence[Any]) -> Mapping[str, list[Measure]]:
        """How far each output moves when inputs and weights are shaken by a rounding."""
        if index not in self._moves:
            shaken = self._shaker.outputs(feed)
            self._moves[index] = {
                name: [measure(left, other[at], Exactness.CLOSE) for other in shaken]
                for at, (name, left) in enumerate(zip(self.names, outputs, strict=True))
            }
        return self._moves[index]

    def _open(self, model: io.Source) -> Session:
        return Session.open(model, optimize=False, providers=self._providers, threads=self._threads)


class _Trial:
    """One candidate held against a reference."""

    def __init__(self, reference: Reference, exactness: Exactness) -> None:
        self._reference = reference
        self._exactness = exactness
        self._totals = {name: Measure() for name in reference.names}
        self._allowed: dict[str, str] = {}
        self._loose: Mapping[str, Measure] = {}
        self._runs = 0

    def verdict(self, session: Session) -> Parity:
        """The record, after running every feed."""
        has = {output.name for output in session.outputs}
        names = [name for name in self._reference.names if name in has]
        for name in self._reference.names:
            if name not in has:
                self._add(
                    name, Measure(worst=inf, alien=True, reason="the candidate has no such output")
                )
        extra = sorted(has.difference(self._reference.names))
        notes = [f"the candidate has further outputs: {', '.join(extra)}"] if extra else []
        for feed, outputs in self._reference.runs:
            missing = set(feed) - session.feedable
            if missing:
                return self.failed(f"the candidate has no input {min(missing)!r}")
            try:
                values = dict(zip(names, session.run(feed, names), strict=True))
            except RuntimeFailed as error:
                return self.failed(f"the candidate fails where the reference runs: {error.message}")
            self._judge(feed, outputs, values)
            self._runs += 1
        return self._record("", notes)

    def failed(self, why: str) -> Parity:
        """The record of a candidate that can't be run."""
        for name in self._totals:
            self._add(name, Measure(worst=inf, alien=True, reason=why))
        return self._record(why, [])

    def _judge(self, feed: Feed, outputs: Sequence[Any], values: Mapping[str, Any]) -> None:
        self._loose = loose = self._reference.steadiness(feed, outputs)
        for name, left in zip(self._reference.names, outputs, strict=True):
            if name not in values:
                continue
            if name in loose and not loose[name].passed:
                found = measure_types(left, values[name], shapes=not loose[name].resized)
                self._allowed[name] = _RANDOM
            else:
                found = self._compared(name, left, values[name], feed, outputs, name in loose)
            self._add(name, found)

    def _compared(
        self, name: str, left: Any, right: Any, feed: Feed, outputs: Sequence[Any], loose: bool
    ) -> Measure:
        # What the reference itself does not repeat to the bit, nobody can ask of a candidate.
        exactness = max(self._exactness, Exactness.CLOSE) if loose else self._exactness
        found = measure(left, right, exactness)
        if found.passed or exactness is not Exactness.CLOSE:
            return found
        moves = self._reference.moves(self._runs, feed, outputs)
        if explains(moves[name], found):
            self._allowed[name] = _ILL_CONDITIONED
            return replace(found, reason="")
        return found

    def _add(self, name: str, found: Measure) -> None:
        if found.reason and self._runs:
            found = replace(found, reason=f"run {self._runs + 1}: {found.reason}")
        self._totals[name] += found

    def _record(self, failure: str, notes: Sequence[str]) -> Parity:
        outputs = tuple(
            total.difference(name, note=self._allowed.get(name, ""))
            for name, total in self._totals.items()
        )
        return Parity(
            passed=not failure and all(output.passed for output in outputs),
            deterministic=all(move.passed for move in self._loose.values()),
            exactness=self._exactness,
            outputs=outputs,
            runs=self._runs,
            skipped=self._reference.runs.skipped,
            failure=failure,
            providers=self._reference.used_providers,
            notes=(*notes, *self._notes()),
        )

    def _notes(self) -> list[str]:
        notes = list(self._reference.runs.notes)
        for name in self._reference.fallen_back:
            notes.append(f"{name} was asked for, but onnxruntime left it out")
        for name, total in self._totals.items():
            if total.count and total.all_nan:
                notes.append(f"every number of {name!r} is NaN, so it proves little")
        return notes
