"""Runs passes as transactions: each is kept because it held its promises, or undone and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from onnxopt.config import Exactness
from onnxopt.errors import OnnxoptError
from onnxopt.passes import shapes
from onnxopt.passes.base import Context, Pass, PassResult, Step, Verdict
from onnxopt.passes.guard import Interface, checker_complaint

if TYPE_CHECKING:
    from onnxopt.check.parity import Parity

Prove: TypeAlias = "Callable[[ir.Model, Exactness], Parity]"
"""Compares a model (as it would be saved) with the original, in the given class."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The model after the passes that were kept, what each did, and the final proof if asked."""

    model: ir.Model
    steps: tuple[Step, ...]
    exactness: Exactness
    notes: tuple[str, ...]
    parity: Parity | None


def run(
    model: ir.Model,
    passes: Sequence[Pass],
    context: Context,
    *,
    prove: Prove | None = None,
    progress: Progress | None = None,
    again: Callable[[], ir.Model] | None = None,
) -> Outcome:
    """Run `passes` over a copy of `model`; one that breaks a promise is undone, the rest goes on.

    Without `prove` only the interface is held. With it, the checker's word after each pass and
    parity at the end count too; where parity fails at the end, the passes are run again with a
    proof after each, so that the guilty one is found, undone and named.

    With `again`, which makes the model anew, `model` itself is worked on and no copy is made.
    """
    make = again or model.clone
    start = model if again is not None else make()
    outcome = _Run(start, make, context, prove is not None, None, progress).all(passes)
    if prove is None:
        return outcome
    parity = prove(shapes.declared_copy(outcome.model), outcome.exactness)
    if parity.passed:
        return _with_parity(outcome, parity)
    outcome = _Run(make(), make, context, True, prove, progress).all(passes)
    return _with_parity(outcome, prove(shapes.declared_copy(outcome.model), outcome.exactness))


def _with_parity(outcome: Outcome, parity: Parity) -> Outcome:
    return Outcome(outcome.model, outcome.steps, outcome.exactness, outcome.notes, parity)


class _Run:
    """One walk through the passes: the model as it is, and how to make it again if one fails.

    Our own passes give the same result every time, so a copy before each would only cost: where
    one fails, those that were kept are run again on the last copy.
    """

    def __init__(
        self,
        model: ir.Model,
        make: Callable[[], ir.Model],
        context: Context,
        checked: bool,
        prove: Prove | None,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._make = make
        self._since: list[Pass] = []
        self._context = context
        self._interface = Interface.of(model)
        self._complained = checked and bool(checker_complaint(model))
        self._checked = checked
        self._prove = prove
        self._progress = progress
        self._exactness = Exactness.EXACT
        self._steps: list[Step] = []
        self._notes: dict[str, None] = {}
        self._idle: set[str] = set()

    def all(self, passes: Sequence[Pass]) -> Outcome:
        disabled = set(self._context.options.disable)
        for each in passes:
            if each.name in disabled:
                self._steps.append(Step(each.name, False, verdict="skipped", reason="disabled"))
            elif each.name not in self._idle:
                self._transaction(each)
        return Outcome(
            self._model, tuple(self._steps), self._exactness, tuple(self._notes), None
        )  # fmt: skip

    def _transaction(self, each: Pass) -> None:
        """Run, hold against the promises, then commit or go back to the model before."""
        if self._progress is not None:
            self._progress(each.name)
        started = time.perf_counter()
        if self._steps:
            shapes.facts_grow_old(self._model)
        repeatable = getattr(each, "repeatable", False)
        if not repeatable:
            self._make, self._since = self._model.clone().clone, []
        result, fault = self._attempt(each, self._model)
        exactness = max(self._exactness, result.exactness)
        if result.changed and not fault:
            fault = self._fault(self._model, exactness)
        seconds = time.perf_counter() - started
        verdict: Verdict = "undone" if fault else "kept"
        self._steps.append(
            Step(
                each.name, result.changed, dict(result.hits), result.refusals, verdict, fault,
                seconds,
            )
        )  # fmt: skip
        if fault or not (result.changed or repeatable):
            # What a foreign pass that claims no change did to the model is not to be trusted.
            self._go_back()
        if fault:
            return
        self._notes.update(dict.fromkeys(result.notes))
        if result.changed:
            self._since.append(each)
            self._exactness = exactness
            self._idle.clear()
        self._idle.add(each.name)

    def _go_back(self) -> None:
        self._model = self._make()
        for each in self._since:
            each.run(self._model, self._context)

    def _attempt(self, each: Pass, candidate: ir.Model) -> tuple[PassResult, str]:
        try:
            if not getattr(each, "on_declared", False):
                return each.run(candidate, self._context), ""
            shapes.restore(candidate)
            result = each.run(candidate, self._context)
            shapes.remember_anew(candidate)
            return result, ""
        except OnnxoptError as error:
            return PassResult(changed=False), error.message
        except Exception as error:  # whatever a pass raises, the model before it is still good
            return PassResult(changed=False), f"it raised {type(error).__name__}: {error}"

    def _fault(self, candidate: ir.Model, exactness: Exactness) -> str:
        """Which promise the candidate breaks, as a sentence; empty if none."""
        breach = self._interface.breach(Interface.of(candidate))
        if breach:
            return breach
        if self._checked and not self._complained:
            complaint = checker_complaint(candidate)
            if complaint:
                return f"the result is not valid ONNX: {complaint}"
        if self._prove is not None:
            try:
                parity = self._prove(shapes.declared_copy(candidate), exactness)
            except OnnxoptError as error:
                return f"the result does not run: {error.message}"
            if not parity.passed:
                return _broken(parity)
        return ""


def _broken(parity: Parity) -> str:
    worst = next((output for output in parity.outputs if not output.passed), None)
    if worst is None:
        return "the outputs changed"
    return f"the output {worst.name!r} changed: {worst.reason}"
