"""The modes that code weights without calibration, `dynamic` and `weights`, as `modes.Mode`s."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize.blocks import BlockCodes
from onnxopt.quantize.covariance import each_covariance
from onnxopt.quantize.dynamic import dynamic_choices, with_dynamic_codes
from onnxopt.quantize.proof import Proof, prove
from onnxopt.quantize.records import Choice
from onnxopt.quantize.row_codes import RowCodes, can_compensate, compensated
from onnxopt.quantize.sites import sites
from onnxopt.quantize.smoothing import smoothed, smoothing_factors
from onnxopt.quantize.static import Verdict
from onnxopt.quantize.weight_only import (
    Packing,
    product_codes,
    weight_choices,
    with_coded_weights,
)

Array = np.ndarray[Any, np.dtype[Any]]

DYNAMIC_METHODS = ("smoothing", "rounding")
"""Weight methods of `DynamicMode`, in the order in which they are applied."""
WEIGHTS_METHODS = ("rounding",)
"""Those of `WeightsMode`."""
DYNAMIC_TARGETS = ("cpu", "generic")
WEIGHT_TARGETS = ("cpu", "generic", "openvino")


@dataclass(slots=True)
class DynamicMode:
    """int8 weights, activations coded as the model runs.

    `feeds` let activations be made easier to code, and codes make up for each other's errors, as
    far as `methods` say.
    """

    feeds: Iterable[Feed] | None = None
    threads: int = 0
    methods: tuple[str, ...] = DYNAMIC_METHODS
    name: str = "dynamic"
    wants: Literal["speed", "size"] = "speed"
    verdict: Verdict = "int8"
    _factors: dict[str, Array] | None = None
    _codes: dict[str, RowCodes] | None = None

    def __post_init__(self) -> None:
        known = () if self.feeds is None else DYNAMIC_METHODS
        self.methods = tuple(each for each in known if each in self.methods)

    def using(self, methods: tuple[str, ...]) -> DynamicMode:
        """The same mode with no others of its methods; what was measured is kept."""
        factors = self._factors if "smoothing" in self.methods and "smoothing" in methods else None
        return DynamicMode(self.feeds, self.threads, methods, _factors=factors)

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """What it would do to each node with a weight."""
        return dynamic_choices(model)

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """The model with integer products."""
        if self._factors is None or self._codes is None:
            self._measure(model)
        assert self._factors is not None and self._codes is not None
        base = smoothed(model, self._factors, chosen) if self._factors else model
        return with_dynamic_codes(base, chosen, self._codes)

    def _measure(self, model: ir.Model) -> None:
        able = {each.node for each in self.choices(model) if each.quantize}
        wanted = [site for site in sites(model) if site.name in able]
        jobs = [site for site in wanted if can_compensate(model, site)]
        if self._factors is None:
            self._factors = {}
            if self.feeds is not None and "smoothing" in self.methods:
                found = smoothing_factors(model, jobs, self.feeds, threads=self.threads)
                self._factors = found
        self._codes = {}
        if self.feeds is not None and "rounding" in self.methods:
            self._codes |= compensated(
                model, wanted, self.feeds, factors=self._factors, threads=self.threads
            )

    def prove(self, model: ir.Model) -> Proof:
        """The kernel that runs each product."""
        return prove(model)


@dataclass(slots=True)
class WeightsMode:
    """Weights as codes, arithmetic on numbers; `feeds` let codes make up for errors.

    They do so as far as `methods` say.
    """

    packing: Packing = field(default_factory=Packing)
    feeds: Iterable[Feed] | None = None
    threads: int = 0
    methods: tuple[str, ...] = WEIGHTS_METHODS
    name: str = "weights"
    wants: Literal["speed", "size"] = "size"
    _codes: dict[str, BlockCodes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = () if self.feeds is None else WEIGHTS_METHODS
        self.methods = tuple(each for each in known if each in self.methods)

    def using(self, methods: tuple[str, ...]) -> WeightsMode:
        """The same mode with no others of its methods."""
        return WeightsMode(self.packing, self.feeds, self.threads, methods)

    @property
    def verdict(self) -> Verdict:
        """What to call a result."""
        return "int4" if self.packing.bits == 4 else "int8"

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """What it would do to each node with a weight."""
        return weight_choices(model, self.packing)

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """The model with coded weights."""
        if self.feeds is not None and "rounding" in self.methods and not self._codes:
            self._compensate(model, self.feeds)
        return with_coded_weights(model, chosen, self.packing, codes=self._codes)

    def _compensate(self, model: ir.Model, feeds: Iterable[Feed]) -> None:
        able = {choice.node for choice in self.choices(model) if choice.quantize}
        jobs = {
            site.name: site
            for site in sites(model)
            if site.name in able and can_compensate(model, site)
        }
        if jobs:
            for name, moments in each_covariance(model, feeds, list(jobs), threads=self.threads):
                self._codes[name] = product_codes(jobs[name], self.packing, moments.second[0])

    def prove(self, model: ir.Model) -> Proof:
        """The kernel that runs each product; convolutions are float by intention."""
        found = prove(model)
        nodes = tuple(
            replace(node, intended=False, fix="") if node.op_type.startswith("Conv") else node
            for node in found.nodes
        )
        return replace(found, nodes=nodes)


def refuse_target(mode: str, target: str, known: tuple[str, ...]) -> None:
    """Raise BadInput for a target that can't run what the mode makes."""
    if target not in known:
        raise BadInput(
            f"what --mode {mode} makes does not run on the target {target!r}",
            hint=f"use --mode static, or one of the targets {', '.join(known)}",
        )
