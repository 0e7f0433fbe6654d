"""Feeds made up from a model's signature and graph, of sizes and values the model really takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check import sizes, values
from onnxopt.check.hints import Hint, hints, sizes_in
from onnxopt.check.inputs import Feed, InputSpec, inputs_of
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.runtime.sessions import Session

Runs = Callable[[Feed], Any]
"""Runs a feed; raises RuntimeFailed where the model refuses it."""

_COUNT = 5
_COUNT_BATCH_ONLY = 3
_COUNT_FIXED = 2


def synthesize(
    model: ir.Model,
    *,
    seed: int = 0,
    count: int | None = None,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Synthetic:
    """Feeds with plausible values that the model has been seen to run, likeliest sizes first.

    Dynamic dims take several sizes, one and odd ones among them, the same wherever the same name
    stands. Sizes the model refuses are left out and counted. Nothing runs before the feeds are
    first looked at. Initializers that may be overridden are not fed.

    Args:
        model: The model to feed.
        seed: Seed of all random values.
        count: How many feeds; by default 2 for fixed shapes, 3 where only the batch is dynamic, 5
            otherwise.
        dims: Sizes of symbolic dims.
        input_shapes: Shapes of inputs by name.

    Raises:
        BadInput: `dims` or `input_shapes` don't fit the model or each other, an input has a type
            that can't be made up, or (when first looked at) no feed runs.
    """
    inputs = tuple(spec for spec in inputs_of(model) if spec.required)
    for spec in inputs:
        if spec.dtype is None:
            raise BadInput(
                f"no value can be made up for the input {spec.name!r} of its type",
                hint="give real inputs with --data",
            )
    known = hints(model)
    plan = sizes.plan(inputs, known, dims or {}, input_shapes or {})
    if count is None:
        count = _usual_count(plan)
    return Synthetic(_Recipe(inputs, known, plan, seed), count, model)


def _usual_count(plan: sizes.Plan) -> int:
    if not plan.roles:
        return _COUNT_FIXED
    return _COUNT_BATCH_ONLY if set(plan.roles.values()) == {"batch"} else _COUNT


@dataclass(frozen=True, slots=True)
class _Recipe:
    """All that the values of a feed follow from, but its sizes."""

    inputs: tuple[InputSpec, ...]
    hints: Mapping[str, Hint]
    plan: sizes.Plan
    seed: int

    def feed(self, chosen: sizes.Sizes, turn: int) -> Feed:
        random = np.random.default_rng([self.seed, turn])
        lengths = [
            size for symbol, size in chosen.items() if self.plan.roles.get(symbol) != "batch"
        ]
        setting = values.Setting(random, turn, max(lengths, default=1))
        return {
            spec.name: values.make(
                spec, self.plan.shape(spec.name, chosen), self.hints[spec.name], setting
            )
            for spec in self.inputs
        }


@dataclass(slots=True)
class Synthetic(Iterable[Feed]):
    """Made-up feeds, found by running the model the first time they are looked at.

    `skipped` counts the sizes that the model refused while `wanted` feeds were looked for.
    """

    recipe: _Recipe
    wanted: int
    model: ir.Model
    skipped: int = 0
    _found: list[Feed] | None = field(default=None, repr=False)

    @property
    def resolved(self) -> bool:
        """Whether the feeds have been found."""
        return self._found is not None

    def resolve(self, run: Runs) -> Iterator[tuple[Feed, Any]]:
        """Each feed with what `run` gave for it, while they are looked for.

        Raises:
            BadInput: `run` refused all of them.
        """
        found: list[Feed] = []
        skipped = 0
        base: Mapping[str, int] = {}
        first_error: RuntimeFailed | None = None
        for chosen in self._guesses():
            feed = self.recipe.feed(chosen, 0)
            try:
                result = run(feed)
            except RuntimeFailed as error:
                skipped, first_error = skipped + 1, first_error or error
                continue
            base = chosen
            found.append(feed)
            yield feed, result
            break
        else:
            raise _nothing_runs(skipped, first_error)
        # The refused guesses before the first success say nothing about the model's sizes.
        skipped = 0
        for chosen in self._further(base):
            if len(found) >= self.wanted:
                break
            feed = self.recipe.feed(chosen, len(found))
            try:
                result = run(feed)
            except RuntimeFailed:
                skipped += 1
                continue
            found.append(feed)
            yield feed, result
        self._found, self.skipped = found, skipped

    def _guesses(self) -> Iterator[sizes.Sizes]:
        plan = self.recipe.plan
        yield plan.first
        yield from plan.rescues(self.recipe.seed, sizes_in(self.model))

    def _further(self, base: sizes.Sizes) -> Iterable[sizes.Sizes]:
        yield from self.recipe.plan.variations(base)
        for _ in range(self.wanted):
            yield base

    def _resolved(self) -> list[Feed]:
        if self._found is None:
            session = Session.open(self.model, optimize=False)
            for _ in self.resolve(session.run):
                pass
        assert self._found is not None
        return self._found

    def __len__(self) -> int:
        return len(self._resolved())

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._resolved())


def _nothing_runs(tried: int, error: RuntimeFailed | None) -> BadInput:
    reason = "" if error is None else f": {error.message}"
    return BadInput(
        f"the model runs on none of {tried} made-up inputs{reason}",
        hint="give real inputs with --data, or sizes with --input-shape or --dim",
    )
