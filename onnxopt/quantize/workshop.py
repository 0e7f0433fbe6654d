"""Makes quantized models of one float model, from one calibration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Outputs, ratio_db
from onnxopt.passes import shapes
from onnxopt.quantize.correction import correct_biases
from onnxopt.quantize.insert import insert
from onnxopt.quantize.observe import with_outputs
from onnxopt.quantize.plan import absorbed_output, make_plan
from onnxopt.quantize.records import Grid, QuantPlan, Range
from onnxopt.quantize.spool import Spool
from onnxopt.quantize.weights import Codes, Statistics, weight_codes
from onnxopt.rewrite.specs import QuantSpec
from onnxopt.runtime.sessions import Session

_Key: TypeAlias = "tuple[str, Grid, tuple[str, ...]]"
"""The codes of a weight depend on its node, the grid of what that reads, and the methods."""


@dataclass(slots=True)
class Workshop:
    """A float model with its calibration, and how weights are to be treated.

    Args:
        model: The float model, its shapes inferred; it is not changed.
        specs: How each operator is quantized.
        statistics: What calibration found, with the calibration samples.
        target: The target to plan for.
        methods: Weight methods, see weights.METHODS.
        threads: Threads of onnxruntime inside an operator.
        eager: Plan nodes too of which only a measurement can tell whether they pay.
    """

    model: ir.Model
    specs: Mapping[str, QuantSpec]
    statistics: Statistics
    target: str
    methods: tuple[str, ...]
    threads: int = 0
    eager: bool = False
    _codes: dict[_Key, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The range of each activation."""
        return self.statistics.ranges

    def using(self, methods: tuple[str, ...]) -> Workshop:
        """The same with other weight methods; codes are shared."""
        return replace(self, methods=methods, _codes=self._codes)

    def plan(self, back: Mapping[str, str] | None = None) -> QuantPlan:
        """A plan in which the nodes of `back` stay float, each for the reason given there."""
        back = back or {}
        plan = make_plan(
            self.model, self.ranges, self.specs, target=self.target,
            keep_float=frozenset(back), eager=self.eager,
        )  # fmt: skip
        nodes = tuple(
            replace(choice, reason=back[choice.node])
            if choice.node in back and not choice.quantize
            else choice
            for choice in plan.nodes
        )
        return replace(plan, nodes=nodes)

    def build(
        self, plan: QuantPlan, *, correct: bool = True, feeds: Sequence[Feed] | None = None
    ) -> ir.Model:
        """The model with the plan carried out, as it would be saved.

        Biases are corrected on `feeds`, or on the calibration samples.
        """
        codes = self._codes_for(plan)
        biases: dict[str, Any] = {}
        if correct and "bias" in self.methods:
            used = self.statistics.feeds if feeds is None else feeds
            biases = correct_biases(self.model, plan, self.specs, codes, used, threads=self.threads)
        result = self.model.clone()
        insert(result, plan, self.specs, codes, biases)
        _drop_unused(result)
        shapes.restore(result)
        return result

    def outputs(self, model: ir.Model, feeds: Iterable[Feed]) -> Sequence[Outputs]:
        """What the model gives for each feed, on the kernels that onnxruntime chooses; on disk."""
        session = Session.open(model, optimize=True, threads=self.threads)
        names = [output.name for output in session.outputs]
        return Spool(dict(zip(names, session.run(feed), strict=True)) for feed in feeds)

    def layer_noise(
        self, quantized: ir.Model, plan: QuantPlan, feeds: Sequence[Feed]
    ) -> dict[str, float]:
        """SQNR in dB of each planned value, all errors before it included."""
        names = [name for name in plan.grids if name not in _interface(self.model)]
        if not names:
            return {}
        left = self._values(shapes.declared_copy(self.model), names, feeds)
        right = self._values(quantized, names, feeds)
        found = {}
        for name in names:
            signal = sum(float(np.square(np.float64(each[name])).sum()) for each in left)
            noise = sum(
                float(np.square(np.float64(b[name]) - np.float64(a[name])).sum())
                for a, b in zip(left, right, strict=True)
            )
            found[name] = ratio_db(signal, noise)
        return found

    def _values(
        self, model: ir.Model, names: Sequence[str], feeds: Sequence[Feed]
    ) -> list[Outputs]:
        session = Session.open(with_outputs(model, names), optimize=False, threads=self.threads)
        return [dict(zip(names, session.run(feed, names), strict=True)) for feed in feeds]

    def _codes_for(self, plan: QuantPlan) -> Codes:
        """The codes of each weight, as far as they are not known from before."""
        keys: dict[str, _Key] = {}
        for node in self.model.graph:
            source = node.inputs[0] if node.inputs else None
            if node.name and source is not None and (source.name or "") in plan.grids:
                keys[node.name] = (node.name, plan.grids[source.name or ""], self.methods)
        missing = {name for name, key in keys.items() if key not in self._codes}
        made = weight_codes(
            self.model,
            only(plan, self.model, missing),
            self.specs,
            self.statistics,
            methods=self.methods,
            threads=self.threads,
        )
        self._codes.update({keys[name]: codes for name, codes in made.items()})
        chosen = {choice.node for choice in plan.nodes if choice.quantize}
        return {n: self._codes[k] for n, k in keys.items() if n in chosen and k in self._codes}


def only(plan: QuantPlan, model: ir.Model, names: Collection[str]) -> QuantPlan:
    """The part of a plan that concerns the nodes of these names."""
    wanted = {
        value.name
        for node in model.graph
        if node.name in names
        for value in (*node.inputs, *map(absorbed_output, node.outputs))
        if value is not None
    }
    return replace(
        plan,
        nodes=tuple(
            replace(choice, quantize=choice.quantize and choice.node in names)
            for choice in plan.nodes
        ),
        grids={name: grid for name, grid in plan.grids.items() if name in wanted},
    )


def _drop_unused(model: ir.Model) -> None:
    """Take out the constants that nothing reads any more, such as the float weights."""
    kept = set(model.graph.outputs) | set(model.graph.inputs)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and value not in kept:
            del model.graph.initializers[name]


def _interface(model: ir.Model) -> set[str]:
    return {value.name or "" for value in (*model.graph.inputs, *model.graph.outputs)}
