"""From ranges and specs to a plan: which nodes run in integers, and on which grid each value lies.

A pair of QuantizeLinear and DequantizeLinear on every value between integer nodes is what the
runtimes look for; where exactly they must stand is told by the specs in rules/quantize_*.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import BadInput
from onnxopt.quantize.records import Choice, Grid, QuantPlan, Range
from onnxopt.quantize.targets import TARGETS
from onnxopt.quantize.units import is_dequantize
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.specs import QuantSpec, Role

ABSORBED = ("Relu", "Clip")
"""Activations that a QuantizeLinear makes redundant where its grid ends with them."""


def make_plan(
    model: ir.Model,
    ranges: Mapping[str, Range],
    specs: Mapping[str, QuantSpec],
    *,
    target: str = "cpu",
    keep_float: frozenset[str] = frozenset(),
    eager: bool = False,
) -> QuantPlan:
    """Choose the nodes to quantize and the grids of the values between them.

    Args:
        model: The float model, its shapes inferred.
        ranges: Range of each float activation, by value name.
        specs: How each operator is quantized.
        target: The target whose checks count.
        keep_float: Names of nodes that stay float.
        eager: Also take nodes of which only a measurement can tell whether they pay.
    """
    check_target(target, specs)
    planner = _Planner(ranges, specs, target, keep_float, eager)
    nodes = [node for node in model.graph if node.op_type != "Constant"]
    choices = [planner.first(node) for node in nodes]
    planner.settle(nodes)
    chosen = {node for node in nodes if node in planner.chosen}
    grids = planner.grids(nodes)
    settled = tuple(
        choice if choice.quantize == (node in chosen) else planner.left_out(node)
        for node, choice in zip(nodes, choices, strict=True)
    )
    return QuantPlan(target, settled, grids)


def check_target(target: str, specs: Mapping[str, QuantSpec]) -> None:
    """Raise BadInput for a target that no operator is quantized for."""
    rules = TARGETS[target].rules if target in TARGETS else None
    if not any(rules in spec.targets for spec in specs.values()):
        known = ", ".join(sorted(TARGETS))
        raise BadInput(f"there is no target {target!r}", hint=f"choose one of {known}")


def check_plan(plan: QuantPlan, model: ir.Model) -> None:
    """Raise BadInput for a plan that was not made for this model, naming a node that tells."""
    known = {node.name or "": node.op_type for node in model.graph}
    for choice in plan.nodes:
        found = known.get(choice.node)
        if found != choice.op_type:
            lacks = "the model does not have" if found is None else f"is a {found} in the model"
            raise BadInput(
                f"the plan names the node {choice.node!r} of type {choice.op_type}, which {lacks}",
                hint="make the plan anew for this model, with --plan-only",
            )


def grid_of(found: Range, *, dtype: str = "uint8") -> Grid:
    """The grid that covers a range and holds zero exactly; uint8 is asymmetric, int8 symmetric.

    Raises BadInput for a range that is not finite.
    """
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput("a range is not finite", hint="look for NaN or infinities in the model")
    if dtype == "int8":
        top = max(-low, high) or 1.0
        return Grid(max(top / 127, _LEAST), 0, dtype)
    levels = 65535 if dtype == "uint16" else 255
    scale = max((high - low) / levels, _LEAST) if high > low else 1.0 / levels
    return Grid(scale, min(levels, max(0, round(-low / scale))), dtype)


_LEAST = 2.0**-120
"""Smaller scales would be denormal, or turn a bias into infinity."""


class _Planner:
    """What has been chosen so far, for one model."""

    def __init__(
        self,
        ranges: Mapping[str, Range],
        specs: Mapping[str, QuantSpec],
        target: str,
        keep_float: frozenset[str],
        eager: bool,
    ) -> None:
        self._ranges = ranges
        self._specs = specs
        self._target = TARGETS[target].rules
        self._profile = TARGETS[target]
        self._keep_float = keep_float
        self._eager = eager
        self.chosen: dict[ir.Node, QuantSpec] = {}

    def first(self, node: ir.Node) -> Choice:
        """The choice that depends on nothing but the node itself."""
        reason = self._why_not(node)
        if not reason:
            self.chosen[node] = self._specs[node.op_type]
        return Choice(node.name or "", node.op_type, not reason, reason or "it has a kernel")

    def settle(self, nodes: list[ir.Node]) -> None:
        """Take back nodes that only pay beside others, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for node in nodes:
                spec = self.chosen.get(node)
                if (
                    spec is not None
                    and spec.role is not Role.PRODUCT
                    and not self._pays(node, spec)
                ):
                    del self.chosen[node]
                    changed = True

    def left_out(self, node: ir.Node) -> Choice:
        return Choice(
            node.name or "", node.op_type, False, "no integer node stands before it, or behind it"
        )

    def grids(self, nodes: list[ir.Node]) -> dict[str, Grid]:
        """A grid for each value that a chosen node reads or writes."""
        wanted: dict[ir.Value, None] = {}
        links: dict[ir.Value, ir.Value] = {}

        def root(value: ir.Value) -> ir.Value:
            while value in links:
                value = links[value]
            return value

        for node in nodes:
            spec = self.chosen.get(node)
            if spec is None:
                continue
            reads, writes = self.reads(node, spec), self.writes(node, spec)
            wanted.update(dict.fromkeys([*reads, *writes]))
            if spec.role is Role.MOVE:
                for value in writes:
                    if root(value) is not root(reads[0]):
                        links[root(value)] = root(reads[0])
        united: dict[ir.Value, Range] = {}
        for value in wanted:
            head = root(value)
            found = self._ranges[value.name or ""]
            united[head] = united[head] | found if head in united else found
        dtype = self._profile.dtype
        return {value.name or "": grid_of(united[root(value)], dtype=dtype) for value in wanted}

    def reads(self, node: ir.Node, spec: QuantSpec) -> list[ir.Value]:
        """The activations that the node reads through pairs."""
        slots = range(len(node.inputs)) if spec.data is None else spec.data
        found = [node.inputs[slot] for slot in slots if slot < len(node.inputs)]
        values = [value for value in found if value is not None and not ops.is_constant(value)]
        if self._target not in spec.fused_sums:
            return values
        fused = self._fused_side(values)
        return [value for value in values if value is not fused]

    def _fused_side(self, values: list[ir.Value]) -> ir.Value | None:
        """The operand of a sum that is fused with the product that makes it."""
        for value in values:
            maker = value.producer()
            spec = None if maker is None else self._specs.get(maker.op_type)
            alone = len(value.uses()) == 1 and not value.is_graph_output()
            if alone and spec is not None and spec.role is Role.PRODUCT:
                return value
        return None

    def writes(self, node: ir.Node, spec: QuantSpec) -> list[ir.Value]:
        """The values that carry a pair behind the node: behind an activation that it absorbs."""
        if self._profile.inputs_only:
            return []
        if spec.float_output and not self._feeds_integers(node):
            return []
        return [absorbed_output(value) for value in node.outputs if value.name]

    def _feeds_integers(self, node: ir.Node) -> bool:
        behind = [absorbed_output(value) for value in node.outputs]
        return any(reader in self.chosen for value in behind for reader in value.consumers())

    def _pays(self, node: ir.Node, spec: QuantSpec) -> bool:
        reads = self.reads(node, spec)
        made = [self._made_by(value) in self.chosen for value in reads]
        if spec.role is Role.MOVE or node.op_type == "GlobalAveragePool":
            known = bool(made) and all(made)
            return known and (self._feeds_integers(node) or spec.role is Role.ARITHMETIC)
        beside = any(self._made_by(v) in self.chosen for v in node.inputs if v is not None)
        if self._eager:
            return beside
        codes = [known or self._has_codes(value) for value, known in zip(reads, made, strict=True)]
        return beside and all(codes)

    def _has_codes(self, value: ir.Value) -> bool:
        """Whether the value is quantized anyway, for a product that reads it."""
        chosen = (self.chosen.get(node) for node in value.consumers())
        return any(spec is not None and spec.role is Role.PRODUCT for spec in chosen)

    def _made_by(self, value: ir.Value) -> ir.Node | None:
        """The node whose integer kernel writes the value, through an absorbed activation."""
        producer = value.producer()
        while producer is not None and producer.op_type in (*ABSORBED, "Add"):
            inner = next(
                (v for v in producer.inputs if v is not None and not ops.is_constant(v)), None
            )
            if inner is None or absorbed_output(inner) is not value:
                break
            producer = inner.producer()
        return producer

    def _why_not(self, node: ir.Node) -> str:
        spec = self._specs.get(node.op_type)
        if spec is None or not ops.is_standard(node):
            return f"no integer kernel is known for {node.op_type}"
        check = spec.targets.get(self._target)
        if self._eager:
            check = spec.measured.get(self._target, check)
        if check is None:
            return spec.refused.get(self._target, f"{self._target} has no kernel for it")
        if node.name in self._keep_float:
            return "it was asked to stay float"
        if any(_is_bias_of(node, value) for value in node.inputs):
            return "its row is the bias of the product before it"
        if self._target in spec.fused_sums and len(self.reads(node, spec)) != 1:
            return "it is no sum of a product and a shortcut"
        values = [*self.reads(node, spec), *(absorbed_output(value) for value in node.outputs)]
        if any(value.dtype != ir.DataType.FLOAT for value in values):
            return "it does not compute in float32"
        if any(value.name not in self._ranges for value in values):
            return "no range is known for what it reads or writes"
        reason = check(NodeView(node))
        return (reason and _why_not_constant(node, spec)) or reason


def _why_not_constant(node: ir.Node, spec: QuantSpec) -> str:
    """Why the weight of a product is no constant, where that is known."""
    weight = node.inputs[spec.weight] if spec.weight is not None else None
    if weight is None:
        return ""
    if weight.is_graph_input() and weight.is_initializer():
        return "a caller may override its weight: optimize --freeze-inputs makes it a constant"
    maker = weight.producer()
    return "its weight is quantized already" if maker and is_dequantize(maker) else ""


def bias_behind(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant row that alone reads a MatMul, and the slot of the row."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not ops.is_standard(uses[0].node, "Add"):
        return None
    reader = uses[0].node
    slot = 1 - next(i for i, value in enumerate(reader.inputs) if value is node.outputs[0])
    tensor = ops.constant(reader.inputs[slot])
    return (reader, slot) if tensor is not None and len(tensor.shape) == 1 else None


def absorbed_output(value: ir.Value) -> ir.Value:
    """The value behind what the runtime fuses with the node that writes `value`.

    That is a row added to a MatMul as its bias, and a Relu or Clip; the value itself where none of
    these alone reads it.
    """
    producer = value.producer()
    if producer is not None and ops.is_standard(producer, "MatMul") and not value.is_graph_output():
        found = bias_behind(producer)
        if found is not None:
            value = found[0].outputs[0]
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return value
    reader = next(iter(uses)).node
    if ops.is_standard(reader, *ABSORBED) and reader.inputs[0] is value and _starts_at_zero(reader):
        return reader.outputs[0]
    return value


def behind(node: ir.Node) -> tuple[ir.Node, ...]:
    """The nodes that the runtime fuses with a chosen one: between it and its absorbed output."""
    found: list[ir.Node] = []
    value = node.outputs[0]
    end = absorbed_output(value)
    while value is not end:
        found.append(next(iter(value.uses())).node)
        value = found[-1].outputs[0]
    return tuple(found)


def _is_bias_of(node: ir.Node, value: ir.Value | None) -> bool:
    """Whether the node adds a row to the MatMul that writes `value`, as its bias."""
    producer = None if value is None else value.producer()
    if producer is None or not ops.is_standard(producer, "MatMul"):
        return False
    found = bias_behind(producer)
    return found is not None and found[0] is node


def _starts_at_zero(node: ir.Node) -> bool:
    if node.op_type == "Relu":
        return True
    view = NodeView(node)
    operand = view.input(1)
    low = operand.scalar if operand is not None else view.attr("min")
    return low == 0.0
