"""The record of a quantization: the decision, the stages on the way, every node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import ops
from onnxopt.quantize.plan import absorbed_output
from onnxopt.report.record import Record, Versions
from onnxopt.report.stages import Stage, stage_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxopt.bench.cost import Cost
    from onnxopt.bench.timing import Timing
    from onnxopt.check.metric import Score
    from onnxopt.quantize.proof import NodeProof
    from onnxopt.quantize.records import Choice
    from onnxopt.quantize.search import Island
    from onnxopt.quantize.static import Outcome
    from onnxopt.quantize.trials import Trial
    from onnxopt.report.record import Report

_KINDS = {"fp16": "float16", "bf16": "bfloat16"}
"""What a node that was chosen computes in, in each mode; int8 in the others."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NARROW = 64
"""Codes of 7 bits are no larger."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node: its integer kernel or "float", why, and the range, grid and SQNR of what it writes.

    `weight` is the scheme of its weight. `sqnr_db` holds all errors before the node too. The
    milliseconds are those of the node in floats, and as it runs now, with what is merged with it.
    None is what was not measured.
    """

    node: str
    op_type: str
    kernel: str
    reason: str
    fix: str = ""
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    bits: str = ""
    weight: str = ""
    sqnr_db: float | None = None
    float_milliseconds: float | None = None
    milliseconds: float | None = None


@dataclass(frozen=True, slots=True)
class QuantizationReport(Record):
    """What `quantize` did to one model and what it decided.

    `mode` is what was done or tried, see quantize.modes. `verdict` is "int8", "int4", "fp16" or
    "bf16" where the quantized model is kept, "float" where it is not (it does not pay, or there is
    nothing to quantize), "over budget" or "planned". `islands` tell what integer nodes cost by
    themselves, worst first, where that was looked for, and `back` the nodes that went back to float
    for it. `float_bytes` and `bytes` are sizes of the float model and the best quantized one.
    `stages` are the original, the optimized and the best quantized model; `optimization` says how
    the second came about. `score` is that on the samples that decided what goes back to float;
    `unseen` that on samples that decided nothing, None where there were too few. `trials` tell what
    each weight method did to the outputs, and which were taken back.
    """

    source: str
    output: str
    target: str
    verdict: str
    reason: str
    score: Score | None
    max_drop: float | None
    sqnr_db: float | None
    layers: tuple[Layer, ...]
    islands: tuple[Island, ...]
    back: tuple[str, ...]
    borders: Mapping[str, int]
    timing: Timing | None
    float_bytes: int
    bytes: int | None
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    strict: bool = False
    optimization: Report | None = None
    stages: tuple[Stage, ...] = ()
    mode: str = "static"
    unseen: Score | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the quantized model is the one that is kept."""
        return self.verdict not in ("float", "over budget", "planned")

    @property
    def not_integer(self) -> tuple[Layer, ...]:
        """The nodes that were meant to run in integers and do not."""
        return tuple(layer for layer in self.layers if layer.kernel == "float" and layer.fix)

    @property
    def agrees(self) -> bool:
        """False where the optimized float model was found not to give the original's numbers."""
        return self.optimization is None or self.optimization.passed

    @property
    def passed(self) -> bool:
        """Whether the result may be kept: it agrees, holds the budget, and `strict` where asked."""
        if not self.agrees or self.verdict == "over budget":
            return False
        return not (self.strict and self.not_integer)


def stages_of(
    optimization: Report, best: Cost | None, timing: Timing | None, score: Score | None
) -> tuple[Stage, ...]:
    """The original, the optimized and the best quantized model, as far as they were measured."""
    reference = None if score is None else score.reference
    found = [
        stage_of("original", optimization.before, timing=timing, side="original"),
        stage_of("optimized", optimization.after, timing=timing, side="float", score=reference),
    ]
    if best is not None:
        # Pairs and codes change neither what is multiplied nor how often.
        known = replace(best, macs=optimization.after.macs)
        side = "" if timing is None else timing.sides[1].name
        candidate = None if score is None else score.candidate
        found.append(stage_of("quantized", known, timing=timing, side=side, score=candidate))
    return tuple(found)


def layers_of(outcome: Outcome, model: ir.Model) -> tuple[Layer, ...]:
    """A layer for each node of the plan, in the model's order."""
    facts = _Facts.of(outcome, model)
    return tuple(facts.layer(choice) for choice in outcome.plan.nodes)


@dataclass(frozen=True, slots=True)
class _Facts:
    """All that is known of nodes, by their names, and of values, by theirs."""

    outcome: Outcome
    proofs: Mapping[str, NodeProof]
    written: Mapping[str, tuple[str, str]]
    hosts: Mapping[str, str]
    quantized: Mapping[str, ir.Node]

    @classmethod
    def of(cls, outcome: Outcome, model: ir.Model) -> _Facts:
        proofs = () if outcome.proof is None else outcome.proof.nodes
        best = () if outcome.best is None else outcome.best.graph
        # Nodes without a name got one on the way.
        nodes = list(model.graph)
        names = (
            [choice.node for choice in outcome.plan.nodes]
            if len(outcome.plan.nodes) == len(nodes)
            else [node.name or "" for node in nodes]
        )
        written = {name: _written(node) for name, node in zip(names, nodes, strict=True)}
        chosen = [choice.node for choice in outcome.plan.nodes if choice.quantize]
        return cls(
            outcome,
            {proof.name: proof for proof in proofs},
            written,
            {written[name][1]: name for name in chosen if name in written},
            {node.name: node for node in best if node.name},
        )

    def layer(self, choice: Choice) -> Layer:
        name, behind = self.written.get(choice.node, ("", ""))
        host = choice.node if choice.quantize else self.hosts.get(name, choice.node)
        # The range and the codes of a product are those behind what is merged with it.
        name = behind if choice.quantize else name if host == choice.node else ""
        known, grid = self.outcome.ranges.get(name), self.outcome.plan.grids.get(name)
        proof = self.proofs.get(choice.node)
        if proof is not None and not (choice.quantize or proof.integer):
            proof = None
        kernel = _KINDS.get(self.outcome.plan.mode, "int8") if choice.quantize else "float"
        before, after = self._milliseconds(choice)
        return Layer(
            node=choice.node,
            op_type=choice.op_type,
            kernel=kernel if proof is None else proof.kernel,
            reason=_reason(choice, proof) if host == choice.node else f"part of {host}",
            fix="" if proof is None or proof.integer else proof.fix,
            low=None if known is None else known.low,
            high=None if known is None else known.high,
            scale=None if grid is None else grid.scale,
            zero_point=None if grid is None else grid.zero_point,
            bits="" if grid is None else grid.dtype,
            weight=_weight_scheme(self.quantized.get(choice.node)),
            sqnr_db=(self.outcome.layers or {}).get(name),
            float_milliseconds=before,
            milliseconds=after,
        )

    def _milliseconds(self, choice: Choice) -> tuple[float | None, float | None]:
        costs = getattr(self.outcome, "costs", None)
        if costs is None or not costs.measured:
            return None, None
        before = costs.floats.get(choice.node)
        after = costs.integers.get(choice.node) if choice.quantize else before
        return (
            None if before is None else 1e3 * before,
            None if after is None else 1e3 * after,
        )


def _written(node: ir.Node) -> tuple[str, str]:
    """What the node writes, and the value behind what its kernel absorbs."""
    if not node.outputs:
        return "", ""
    value = node.outputs[0]
    return value.name or "", absorbed_output(value).name or ""


def _weight_scheme(node: ir.Node | None) -> str:
    """How the codes of a product's weight are scaled, and how many channels have 7 bits of them."""
    value = node.inputs[1] if node is not None and node.op_type in PRODUCTS else None
    coded = None if value is None else value.producer()
    if coded is None or not ops.is_standard(coded, "DequantizeLinear"):
        return ""
    codes, scale = (ops.constant(each) for each in coded.inputs[:2])
    if codes is None or scale is None:
        return ""
    kind = codes.dtype.name.lower()
    if scale.size == 1:
        return f"{kind} per tensor"
    block = coded.attributes.get("block_size")
    if block is not None and block.as_int():
        return f"{kind} in blocks of {block.as_int()}"
    attribute = coded.attributes.get("axis")
    axis = 1 if attribute is None else attribute.as_int()
    rows = np.moveaxis(codes.numpy(), axis, 0).reshape(scale.size, -1).astype(np.int32)
    narrow = 0 if kind != "int8" else int((np.abs(rows).max(axis=1) <= _NARROW).sum())
    words = f", 7 bits in {narrow} of {scale.size}" if narrow else ""
    return f"{kind} per channel{words}"


def _reason(choice: Choice, proof: NodeProof | None) -> str:
    if proof is None:
        return choice.reason
    if not proof.integer:
        return proof.reason
    if choice.quantize:
        return choice.reason
    if choice.op_type in PRODUCTS:
        return "onnxruntime quantizes its weight by itself, as pairs stand on both sides"
    return "its neighbour's kernel does its work too"
