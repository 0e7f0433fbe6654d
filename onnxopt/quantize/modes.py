"""What the modes without pairs around activations share: choose, build, score, race, decide.

A mode says what it would do to which node, and makes the model of the nodes that were chosen. Where
there is data the loss is measured, and the worst nodes go back to float until the budget holds.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import onnx_ir as ir

from onnxopt import io
from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Outputs, Score, sqnr_db
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize import trials
from onnxopt.quantize.proof import Proof
from onnxopt.quantize.records import Choice, QuantPlan
from onnxopt.quantize.samples import Samples
from onnxopt.quantize.search import BACK, Island
from onnxopt.quantize.spool import Spool
from onnxopt.quantize.static import Outcome, Progress, Race, Settings, Unseen, Verdict
from onnxopt.runtime.sessions import Session

MODES = ("static", "dynamic", "weights", "fp16", "bf16", "auto")
"""What `quantize` can do to a model; `api_quantize.quantize` says what each is."""

LARGE_BYTES = 1 << 29
"""Models over this are not measured where it takes more than one session on a file."""
_LOOKED_AT = 8
_MOST_GROUPS = 24


class Mode(Protocol):
    """One way to make a model smaller or faster."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def wants(self) -> Literal["speed", "size"]:
        """What it is for: a model that is no faster, or no smaller, is not kept."""
        ...

    @property
    def verdict(self) -> Verdict:
        """What to call a model that is kept."""
        ...

    @property
    def methods(self) -> tuple[str, ...]:
        """The weight methods that can be taken back, see trials."""
        ...

    def using(self, methods: tuple[str, ...]) -> Mode:
        """The same mode with no others of its methods."""
        ...

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """What it would do to each node that it could do something to, and why (not)."""
        ...

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """A copy of the model in which it is done to the nodes of these names."""
        ...

    def prove(self, model: ir.Model) -> Proof:
        """What the provider makes of what `build` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What a run of a mode goes by.

    `samples` is None without data; `timed` gives the feeds to race a
    model on. `plan` is to be carried out as
    it is, and with `plan_only` nothing is.
    """

    settings: Settings
    samples: Samples | None
    timed: Callable[[ir.Model], Sequence[Feed]]
    race: Race | None
    plan: QuantPlan | None = None
    plan_only: bool = False
    progress: Progress = field(default=lambda share, doing: None)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A model that was made, which nodes went back to float for it, and its score if any."""

    model: ir.Model
    back: tuple[str, ...] = ()
    score: Score | None = None
    sqnr_db: float | None = None
    noise: trials.Noise | None = None

    def holds(self, max_drop: float | None) -> bool:
        return self.score is None or self.score.within(max_drop)


Build: TypeAlias = "Callable[[Collection[str]], ir.Model]"


def run_mode(model: ir.Model, mode: Mode, given: Given) -> Outcome:
    """Do what the mode does to the nodes where it can, and decide whether to keep it.

    Args:
        model: The float model, optimized, every node named; it is not changed.
        mode: The mode.
        given: Data, limits and what to stop at.

    Raises:
        BadInput: The plan is not for this model, the data does not fit, the metric fails.
        RuntimeFailed: onnxruntime can't run the model.
    """
    choices = mode.choices(model)
    if given.plan is not None:
        choices = _as_planned(choices, given.plan)
    plan = QuantPlan(given.settings.target, choices, {}, mode=mode.name)
    if given.plan_only:
        return Outcome("planned", "a plan was asked for", model, plan, {})
    chosen = {choice.node for choice in choices if choice.quantize}
    if not chosen:
        return Outcome("float", _nothing(choices, mode), model, plan, {})
    return _Run(model, mode, given).decide(plan, chosen)


class _Run:
    def __init__(self, model: ir.Model, mode: Mode, given: Given) -> None:
        self._model, self._mode, self._given = model, mode, given
        settings, samples = given.settings, given.samples
        self._threads, self._limit = settings.threads, settings.max_drop
        self._held = () if samples is None else samples.held
        self._metric = replace(settings.metric, labels=None if samples is None else samples.labels)
        self._unseen = Unseen.of(samples, self._metric)
        self._float = shapes.declared_copy(model)
        self._wanted = outputs(self._float, self._held, self._threads)

    def decide(self, plan: QuantPlan, chosen: Collection[str]) -> Outcome:
        """Build, put back what costs too much, race."""
        self._given.progress(0.0, f"making the {self._mode.name} model")
        found, done = self._settle(chosen)
        islands: tuple[Island, ...] = ()
        if not found.holds(self._limit) and self._given.plan is None:
            islands = self._islands(chosen)
            found = self._put_back(chosen, islands, found)
        nodes = tuple(
            replace(each, quantize=False, reason=BACK) if each.node in found.back else each
            for each in plan.nodes
        )
        verdict, reason = self._verdict(found)
        kept = self._model if verdict in ("float", "over budget") else found.model
        return Outcome(
            verdict, reason, kept, replace(plan, nodes=nodes), {}, best=found.model,
            proof=self._mode.prove(found.model), score=found.score, sqnr_db=found.sqnr_db,
            islands=islands, back=found.back, trials=done,
            unseen=self._unseen.score(
                lambda feeds: outputs(self._float, feeds, self._threads),
                lambda feeds: outputs(found.model, feeds, self._threads),
            ),
        )  # fmt: skip

    def _settle(self, chosen: Collection[str]) -> tuple[_Trial, tuple[trials.Trial, ...]]:
        """The trial with the methods that do no harm, and how each of them did."""
        methods = self._mode.methods
        if not methods or not self._held:
            return self._trial(chosen), ()
        self._mode = self._mode.using(())
        found, done = self._trial(chosen), []
        for method in methods:
            self._given.progress(0.0, f"trying {method}")
            changed = self._mode.using((*self._mode.methods, method))
            other = self._trial(chosen, mode=changed)
            assert found.noise is not None and other.noise is not None
            done.append(trials.judged(method, found.noise, other.noise))
            if done[-1].kept:
                self._mode, found = changed, other
        return found, tuple(done)

    def _trial(
        self, chosen: Collection[str], back: tuple[str, ...] = (), mode: Mode | None = None
    ) -> _Trial:
        mode = mode or self._mode
        made = mode.build(self._model, [name for name in chosen if name not in back])
        if not self._held:
            return _Trial(made, back)
        given = outputs(made, self._held, self._threads)
        score = self._metric.score(self._wanted, given, self._held)
        noise = trials.Noise.of(self._wanted, given)
        return _Trial(made, back, score, sqnr_db(self._wanted, given), noise)

    def _islands(self, chosen: Collection[str]) -> tuple[Island, ...]:
        """What some nodes alone cost, worst first."""
        names = [each for each in _order(self._model) if each in chosen]
        size = -(-len(names) // _MOST_GROUPS)
        groups = [tuple(names[i : i + size]) for i in range(0, len(names), size)]
        feeds = self._held[:_LOOKED_AT]
        found = []
        for number, group in enumerate(groups):
            self._given.progress(number / len(groups), "looking for what costs accuracy")
            made = outputs(self._mode.build(self._model, group), feeds, self._threads)
            found.append(Island(group, sqnr_db(self._wanted[:_LOOKED_AT], made)))
        return tuple(sorted(found, key=lambda island: island.sqnr_db))

    def _put_back(
        self, chosen: Collection[str], islands: Sequence[Island], first: _Trial
    ) -> _Trial:
        """The trial with the fewest of the worst islands in float that holds, else the best."""
        low, high, best = 1, len(islands) - 1, first
        held: _Trial | None = None
        while low <= high:
            count = (low + high) // 2
            self._given.progress(0.0, f"putting {count} of {len(islands)} islands back to float")
            worst = itertools.chain.from_iterable(each.nodes for each in islands[:count])
            found = self._trial(chosen, tuple(worst))
            if found.holds(self._limit):
                held, high = found, count - 1
            else:
                low = count + 1
            if best.score and found.score and found.score.drop < best.score.drop:
                best = found
        return held or best

    def _verdict(self, found: _Trial) -> tuple[Verdict, str]:
        score, race, mode = found.score, self._given.race, self._mode
        if score is not None and not score.within(self._limit):
            drop = f"{score.metric} drops by {score.drop:.4g}"
            return "over budget", f"{drop}, and {score.allowed(self._limit):g} is allowed"
        if mode.wants == "size" and io.model_bytes(found.model) >= io.model_bytes(self._float):
            return "float", "it would be no smaller"
        held = "it holds the budget" if score is not None else "the loss was not measured"
        if race is None:
            return mode.verdict, f"{held}; the time was not measured"
        self._given.progress(0.0, "timing")
        speed = race(self._float, found.model, self._given.timed(found.model))
        pace = f"runs at {speed.speedup:.2f}x the float model's speed"
        if speed.faster:
            return mode.verdict, f"{held}, and it {pace}"
        if mode.wants == "size" or self._given.plan is not None:
            asked = "the plan was given" if self._given.plan is not None else f"{held}"
            return mode.verdict, f"{asked}; it is smaller, and {pace}"
        return "float", f"{mode.name} quantization does not pay here: it {pace}"


def outputs(model: ir.Model, feeds: Sequence[Feed], threads: int) -> Sequence[Outputs]:
    """What the model gives for each feed, on the kernels that onnxruntime chooses; on disk."""
    if not feeds:
        return []
    with _opened(model, threads) as session:
        names = [output.name for output in session.outputs]
        return Spool(dict(zip(names, session.run(feed), strict=True)) for feed in feeds)


@contextlib.contextmanager
def _opened(model: ir.Model, threads: int) -> Iterator[Session]:
    """A session; that of a large model reads a file, so that its weights are there only once."""
    if not is_large(model):
        yield Session.open(model, optimize=True, threads=threads)
        return
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        path = io.save(model, Path(folder, "model.onnx"), external="file")
        yield Session.open(path, optimize=True, threads=threads)


def is_large(model: ir.Model) -> bool:
    """Whether two copies of its weights in memory are one too many."""
    return io.model_bytes(model) > LARGE_BYTES


def _as_planned(choices: tuple[Choice, ...], plan: QuantPlan) -> tuple[Choice, ...]:
    able = {choice.node: choice for choice in choices}
    for wanted in plan.nodes:
        known = able.get(wanted.node)
        if wanted.quantize and (known is None or not known.quantize):
            why = "which the model does not have" if known is None else f"but {known.reason}"
            raise BadInput(
                f"the plan quantizes the node {wanted.node!r}, {why}",
                hint="make the plan anew for this model",
            )
    asked = {choice.node: choice for choice in plan.nodes}
    return tuple(asked.get(choice.node, replace(choice, quantize=False)) for choice in choices)


def _nothing(choices: Sequence[Choice], mode: Mode) -> str:
    if not choices:
        return f"it has no product with a weight, which {mode.name} could make smaller"
    reason = Counter(choice.reason for choice in choices).most_common(1)[0][0]
    return f"there is nothing in it for {mode.name}: {reason}"


def _order(model: ir.Model) -> list[str]:
    return [node.name or "" for node in model.graph.all_nodes()]
