"""Which inputs and outputs of a node count for an integer kernel, and who meant it to have one."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.placement import PLACEMENTS, WEIGHT_INPUT, Placement
from onnxopt.quantize.units import (
    Coding,
    Unit,
    clip_bounds,
    coding_of,
    constant_codes,
    is_quantize,
    named,
    readers,
)


def data_inputs(node: ir.Node) -> tuple[int, ...]:
    """The positions of the inputs that must come from a DQ."""
    placement = placement_of(node)
    present = [i for i, value in enumerate(node.inputs) if value is not None and value.name]
    if placement is None or placement.data is None:
        return tuple(present)
    return tuple(i for i in present if i in placement.data)


def is_intended(unit: Unit) -> bool:
    """Whether someone meant the node to run in integers: pairs are all around it, or its weight
    is quantized."""
    weight = WEIGHT_INPUT.get(unit.node.op_type)
    if weight is not None and len(unit.sources) > weight and unit.sources[weight] is not None:
        return True
    data = data_inputs(unit.node)
    whole = bool(data) and all(
        unit.sources[i] is not None or ops.is_constant(unit.node.inputs[i]) for i in data
    )
    return whole and any(unit.sources[i] is not None for i in data) and bool(unit.sinks)


def moves_signed(value: ir.Value | None) -> str:
    """Why int8 codes between Q and DQ can't become uint8 ones; empty if they can."""
    maker = None if value is None else value.producer()
    if value is None or not is_quantize(maker):
        return "they come into the graph as they are, and not from a Q"
    if value.is_graph_output():
        return "they are also a graph output"
    # onnxruntime gives every reader of a DQ a DQ of its own before it looks.
    uses = [use for reader in readers(value) for use in named(reader.outputs)[0].uses()]
    if len(readers(value)) > 1 or len(uses) > 1:
        return "more than one node reads what the Q gives"
    return ""


def is_absorbed(activation: ir.Node, quantize: ir.Node) -> bool:
    """Whether the Q cuts at least as much as the Relu or Clip before it."""
    coding = coding_of(quantize)
    if not coding.constant or not coding.per_tensor:
        return False
    low, high = coding.limits
    if activation.op_type == "Relu":
        return low >= 0
    bounds = [ops.constant(value) for value in activation.inputs[1:3] if value is not None]
    if len(bounds) != len(named(activation.inputs[1:3])) or any(each is None for each in bounds):
        return False
    lowest, highest = clip_bounds(activation)
    return lowest <= low + 1e-6 and highest >= high - 1e-6


def placement_of(node: ir.Node) -> Placement | None:
    return PLACEMENTS.get(node.op_type) if node.domain in ops.STANDARD_DOMAINS else None


def needs_output(unit: Unit) -> bool:
    placement = placement_of(unit.node)
    return placement is None or placement.output


def activation_makers(unit: Unit) -> list[ir.Node]:
    weighted = unit.node.op_type in WEIGHT_INPUT
    found = [
        maker
        for i, maker in enumerate(unit.sources)
        if maker is not None and (i == 0 or not weighted or constant_codes(maker) is None)
    ]
    return [*found, *unit.sinks]


def activation_codings(unit: Unit) -> list[Coding]:
    return [coding_of(maker) for maker in activation_makers(unit)]


def all_codings(unit: Unit) -> list[Coding]:
    makers = [maker for maker in (*unit.sources, *unit.sinks) if maker is not None]
    return [coding_of(maker) for maker in makers]


def ends(unit: Unit) -> Iterator[ir.Value]:
    yield from named(unit.node.outputs)
    if unit.activation is not None:
        yield from named(unit.activation.outputs)


def is_quantized_by_runtime(unit: Unit, index: int) -> bool:
    """Whether onnxruntime itself quantizes this float constant when it loads the model."""
    if unit.node.op_type == "Where":
        tensor = ops.constant(unit.node.inputs[index])
        return tensor is not None and not tensor.shape.numpy()
    if unit.node.op_type in ("Conv", "Gemm"):
        return index in (1, 2) and bool(unit.sinks)
    return unit.node.op_type == "MatMul" and index == 1 and bool(unit.sinks)
