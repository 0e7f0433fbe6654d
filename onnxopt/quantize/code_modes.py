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
from onnxopt.quantize.static import Verdict
from onnxopt.quantize.weight_only import (
    Packing,
    product_codes,
    weight_choices,
    with_coded_weights,
)

Array = np.ndarray[Any, np.dtype[Any]]

DYNAMIC_TARGETS = ("cpu", "generic")
WEIGHT_TARGETS = ("cpu", "generic", "openvino")


@dataclass(slots=True)
class DynamicMode:
    """int8 weights, activations coded as the model runs; `feeds` let codes make up for errors."""

    feeds: Iterable[Feed] | None = None
    threads: int = 0
    name: str = "dynamic"
    wants: Literal["speed", "size"] = "speed"
    verdict: Verdict = "int8"
    _codes: dict[str, RowCodes] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Codes that make up for each other, where there is data."""
        return () if self.feeds is None else ("rounding",)

    def without(self, method: str) -> DynamicMode:
        """Codes to nearest."""
        return DynamicMode(None, self.threads)

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """What it would do to each node with a weight."""
        return dynamic_choices(model)

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """The model with integer products."""
        if self._codes is None:
            self._codes = {}
            if self.feeds is not None:
                able = {each.node for each in self.choices(model) if each.quantize}
                wanted = [site for site in sites(model) if site.name in able]
                self._codes |= compensated(model, wanted, self.feeds, threads=self.threads)
        return with_dynamic_codes(model, chosen, self._codes)

    def prove(self, model: ir.Model) -> Proof:
        """The kernel that runs each product."""
        return prove(model)


@dataclass(slots=True)
class WeightsMode:
    """Weights as codes, arithmetic on numbers; `feeds` let codes make up for errors."""

    packing: Packing = field(default_factory=Packing)
    feeds: Iterable[Feed] | None = None
    threads: int = 0
    name: str = "weights"
    wants: Literal["speed", "size"] = "size"
    _codes: dict[str, BlockCodes] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Codes that make up for each other, where there is data."""
        return () if self.feeds is None else ("rounding",)

    def without(self, method: str) -> WeightsMode:
        """Codes to nearest."""
        return WeightsMode(self.packing, None, self.threads)

    @property
    def verdict(self) -> Verdict:
        """What to call a result."""
        return "int4" if self.packing.bits == 4 else "int8"

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """What it would do to each node with a weight."""
        return weight_choices(model, self.packing)

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """The model with coded weights."""
        if self.feeds is not None and not self._codes:
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
