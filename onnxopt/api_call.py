"""What calls share that make one model into another: where from, where to, on what data."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.arguments import Progress, silent
from onnxopt.check.metric import Metric, Score
from onnxopt.errors import BadInput
from onnxopt.quantize import samples
from onnxopt.quantize.modes import outputs
from onnxopt.quantize.samples import Samples


@dataclass(frozen=True, slots=True)
class Data:
    """The samples of a call, and how loss is measured on them; arguments.SHARED says what each is.

    Raises BadInput where a loss is asked for and there is nothing to measure it on.
    """

    source: Any = None
    batch: int = 1
    preprocess: str | None = None
    metric: Metric = field(default_factory=lambda: Metric("auto"))
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.source is None and (self.metric.labels is not None or self.max_drop is not None):
            raise BadInput(
                "a loss can only be measured on samples, and there is no data",
                hint="give some with --data",
            )

    @property
    def is_noise(self) -> bool:
        """Whether the samples are to be made up."""
        return isinstance(self.source, str) and self.source == samples.RANDOM


@dataclass(frozen=True, slots=True)
class Call:
    """What a call is told besides its own choices; arguments.SHARED says what each is."""

    model: io.Source
    data: Data
    seed: int = 0
    input_shapes: Mapping[str, Sequence[int]] | None = None
    dims: Mapping[str, int] | None = None
    threads: int = 0
    output: str | os.PathLike[str] | None = None
    external: io.External = "keep"
    overwrite: bool = False
    progress: Progress | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def say(self) -> Progress:
        """Tells how far it is."""
        return self.progress or silent

    @property
    def source(self) -> str:
        """What a report calls the model."""
        return api.name_of(self.model)

    @property
    def target(self) -> str:
        """What a report calls the result."""
        return "<memory>" if self.output is None else os.fspath(self.output)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.started

    def load(self) -> ir.Model:
        """The model. Raises OnnxoptError where it can't be read or the result can't be written."""
        model = io.load(self.model)
        if self.output is not None:
            io.check_target(model, self.output, overwrite=self.overwrite)
        return model

    def optimized(self, **first: Any) -> api.Result:
        """The model optimized, untimed; `first` are further keywords of `optimize`."""
        return api.optimize(
            self.model, bench=False, seed=self.seed, input_shapes=self.input_shapes,
            dims=self.dims, threads=self.threads, progress=lambda doing: self.say(0.0, doing),
            **first,
        )  # fmt: skip

    def split(self, model: ir.Model, *, confirm: bool = False) -> Samples | None:
        """The samples for the optimized model, some kept apart; None without data.

        With `confirm` some more are kept apart that decide nothing, see samples.Samples; else
        they are kept apart in blocks, as more is learned from the others then.
        """
        data = self.data
        if data.source is None:
            return None
        return samples.split(
            data.source, model, batch=data.batch, preprocess=data.preprocess,
            labels=data.metric.labels, seed=self.seed, confirm=confirm, blocks=not confirm,
        )  # fmt: skip

    def score(
        self, reference: ir.Model, candidate: ir.Model, split: Samples | None
    ) -> Score | None:
        """How far the candidate has fallen behind on the samples kept apart, if there are any."""
        if split is None:
            return None
        self.say(0.95, "measuring on the samples kept apart")
        left, right = (outputs(model, split.held, self.threads) for model in (reference, candidate))
        return replace(self.data.metric, labels=split.labels).score(left, right, split.held)

    def write(self, model: ir.Model, *, passed: bool) -> None:
        """Save the model where the user wants it, unless a promise was broken."""
        if self.output is not None and passed:
            io.save(model, self.output, external=self.external, overwrite=self.overwrite)
