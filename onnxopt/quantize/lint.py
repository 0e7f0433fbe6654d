"""What is wrong with a quantized model, of whatever tool, before it runs anywhere.

All of it is read off the graph. `repair.fix` repairs what it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.quantize.edit import can_drop, cuts, only_dequantized
from onnxopt.quantize.intent import is_intended
from onnxopt.quantize.overflow import MOST, channel_rows, worst_pairs
from onnxopt.quantize.placement import PLACEMENTS, WEIGHT_INPUT
from onnxopt.quantize.products import bias_scale_error, right_axis
from onnxopt.quantize.reasons import Why, blocked
from onnxopt.quantize.repair_operators import (
    can_unfold,
    dynamic_convolution,
    rescalable,
    signed_product,
)
from onnxopt.quantize.repair_pads import foldable_pad
from onnxopt.quantize.units import (
    ABSORBED,
    Array,
    Unit,
    all_nodes,
    coding_of,
    constant_codes,
    int_attribute,
    is_byte_op,
    is_constant,
    is_dequantize,
    is_quantize,
    readers,
    unit_of,
)

Kind = Literal[
    "misplaced-pair",
    "wrong-axis",
    "wrong-bias-scale",
    "signed-activations",
    "saturation-risk",
    "pure-overhead",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]

PER_CHANNEL_OPSET = 13

_MISPLACED = {
    "activation-alone",
    "activation-between",
    "float-input",
    "float-reader",
    "graph-output",
    "matmul-add",
    "no-quantizer-after",
    "scales-differ",
    "two-quantizers",
}
_FIXED_BY_MOVING = {"float-reader", "matmul-add", "scales-differ", "two-quantizers"}
_STORED_WEIGHT = {
    "ConvInteger": ("Conv", 1),
    "DynamicQuantizeMatMul": ("MatMul", 1),
    "MatMulInteger": ("MatMul", 1),
    "MatMulIntegerToFloat": ("MatMul", 1),
    "QGemm": ("Gemm", 3),
    "QLinearConv": ("Conv", 3),
    "QLinearMatMul": ("MatMul", 3),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a node.

    `kind` is one of KINDS, `node` the node's name (or "Conv of y" where it has none), `message` a
    sentence that says what is wrong and what it costs, and `fix_possible` whether `fix` can repair
    it without data.
    """

    kind: Kind
    node: str
    message: str
    fix_possible: bool


def lint(model: io.Source) -> tuple[Fault, ...]:
    """What is wrong with the Q/DQ pairs and quantized weights of a model, in the model's order.

    Raises BadModel if the model can't be read.
    """
    loaded = io.load(model)
    nodes = [node for node in all_nodes(loaded) if not is_byte_op(node)]
    found = [fault for node in nodes for fault in _of_node(node)]
    return (*found, *_overhead(loaded))


def label(node: ir.Node) -> str:
    """The node's name, or its operator and first output."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


def _of_node(node: ir.Node) -> Iterator[Fault]:
    yield from _stored_overflow(node)
    yield from _stored_signed(node)
    yield from _requantized(node)
    unit = unit_of(node)
    if not any(maker is not None for maker in unit.sources):
        return
    why = blocked(unit)
    if foldable_pad(node) is not None:
        message = "Pad has no integer kernel; the convolution after it can pad by itself"
        yield Fault("misplaced-pair", label(node), message, True)
    elif why is not None and is_intended(unit):
        yield from _misplaced(unit, why)
    yield from _axis(unit)
    error = bias_scale_error(unit)
    if error is not None:
        yield Fault("wrong-bias-scale", label(node), _bias_message(node, error), True)
    if why is not None and why.rule in ("signed-activations", "signed-constant"):
        yield Fault(
            "signed-activations", label(node), f"{node.op_type} stays float: {why.reason}", True
        )
    yield from _overflow(unit)


def _misplaced(unit: Unit, why: Why) -> Iterator[Fault]:
    node = unit.node
    if why.rule not in _MISPLACED:
        return
    if why.rule == "activation-alone" and not _follows_integer_op(node):
        return
    possible = why.rule in _FIXED_BY_MOVING
    if why.rule in ("activation-alone", "activation-between"):
        activation = node if why.rule == "activation-alone" else unit.activation
        possible = activation is not None and activation.op_type in ABSORBED
    elif why.rule == "float-input":
        possible = all(
            maker is not None or is_constant(value) or not _needs_input(value)
            for maker, value in zip(unit.sources, node.inputs, strict=True)
        )
    if why.rule in ("float-reader", "two-quantizers"):
        possible = not any(cuts(each) for each in unit.sinks)
    possible = possible and all(only_dequantized(each) for each in unit.sinks)
    message = f"{node.op_type} stays float: {why.reason}; {why.fix}"
    yield Fault("misplaced-pair", label(node), message, possible)


def _needs_input(value: ir.Value | None) -> bool:
    """Whether the value depends on the numbers that go into the model."""
    pending, seen = [value], {value}
    while pending:
        one = pending.pop()
        maker = None if one is None else one.producer()
        if maker is None:
            if one is not None and not ops.is_constant(one):
                return True
            continue
        read = () if maker.op_type in ops.SHAPE_ONLY else maker.inputs
        read = read[:1] if maker.op_type == "CastLike" else read
        new = [each for each in read if each not in seen]
        seen.update(new)
        pending.extend(new)
    return False


def _follows_integer_op(activation: ir.Node) -> bool:
    """Whether the pair before a Relu or Clip lies between it and a node that could take it in."""
    value = activation.inputs[0]
    dequantize = None if value is None else value.producer()
    if not is_dequantize(dequantize) or dequantize is None or dequantize.inputs[0] is None:
        return False
    quantize = dequantize.inputs[0].producer()
    if quantize is None or not is_quantize(quantize) or quantize.inputs[0] is None:
        return False
    maker = quantize.inputs[0].producer()
    return maker is not None and maker.op_type in PLACEMENTS and is_intended(unit_of(maker))


def _axis(unit: Unit) -> Iterator[Fault]:
    node = unit.node
    place = WEIGHT_INPUT.get(node.op_type)
    if place is None or node.op_type == "ConvTranspose" or len(unit.sources) <= place:
        return
    maker = unit.sources[place]
    if maker is None or constant_codes(maker) is None:
        return
    coding = coding_of(maker)
    if coding.axis is None or coding.block:
        return
    graph = node.graph
    version = graph.opset_imports.get("", 0) if graph is not None else 0
    if 0 < version < PER_CHANNEL_OPSET:
        message = f"opset {version} knows no scales per channel: the model does not load"
        yield Fault("wrong-axis", label(node), message, True)
    wanted = right_axis(unit)
    codes = constant_codes(maker)
    if wanted is None or codes is None or coding.axis % codes.ndim == wanted:
        return
    yield Fault(
        "wrong-axis",
        label(node),
        f"the scales of the weight run along axis {coding.axis}, and integer kernels read them"
        f" along axis {wanted}: the result is wrong, or does not run",
        coding.constant,
    )


def _bias_message(node: ir.Node, error: float) -> str:
    off = "has a zero point or a wrong size" if np.isinf(error) else f"is {error:.3g} times"
    what = "" if np.isinf(error) else " the product of the scales of input and weight"
    cost = "the node stays float" if node.op_type == "Conv" else "the result is silently wrong"
    return f"the scale of the bias {off}{what}: {cost}"


def _overflow(unit: Unit) -> Iterator[Fault]:
    node = unit.node
    place = WEIGHT_INPUT.get(node.op_type)
    data = unit.sources[0]
    if place is None or len(unit.sources) <= place or data is None or not coding_of(data).is_byte:
        return
    codes = constant_codes(unit.sources[place])
    if codes is not None and codes.dtype == np.int8:
        transposed = bool(int_attribute(node, "transB", 0))
        yield from _risky(node, codes, node.op_type, transposed, True)


def _stored_overflow(node: ir.Node) -> Iterator[Fault]:
    """The same for operators that hold codes themselves; their scales lie elsewhere."""
    op_type, place = _STORED_WEIGHT.get(node.op_type, ("", 0))
    if not op_type or len(node.inputs) <= place:
        return
    tensor = ops.constant(node.inputs[place])
    if tensor is not None and tensor.dtype is ir.DataType.INT8:
        transposed = bool(int_attribute(node, "transB", 0))
        possible = can_unfold(node) or rescalable(node) is not None
        yield from _risky(node, tensor.numpy(), op_type, transposed, possible)


def _stored_signed(node: ir.Node) -> Iterator[Fault]:
    if signed_product(node):
        yield Fault(
            "signed-activations",
            label(node),
            f"{node.op_type} reads int8 activations, which the CPU provider computes with slow"
            " kernels; use uint8 for activations",
            can_unfold(node),
        )


def _requantized(node: ir.Node) -> Iterator[Fault]:
    if dynamic_convolution(node) is not None:
        yield Fault(
            "pure-overhead",
            label(node),
            "its input is quantized anew in every run, and that convolution is slower than a float"
            " one; as float, its weight takes four times the bytes",
            True,
        )


def _risky(
    node: ir.Node, codes: Array, op_type: str, transposed: bool, possible: bool
) -> Iterator[Fault]:
    rows = channel_rows(codes, op_type, transposed, int_attribute(node, "group", 1))
    if rows is None:
        return
    worst = worst_pairs(rows)
    risky = int((worst > MOST).sum())
    if risky:
        yield Fault(
            "saturation-risk",
            label(node),
            f"{risky} of {len(worst)} channels have neighbours of one sign that add up to more"
            f" than {MOST} (to {worst.max():.0f}): a sum of 16 bits can overflow on processors"
            " without VNNI",
            possible,
        )


def _overhead(model: ir.Model) -> Iterator[Fault]:
    for node in idle(model):
        possible = is_dequantize(node) or can_drop(node)
        value = node.inputs[0]
        name = "" if value is None else value.name
        if is_quantize(node):
            message = f"the pair on {name} lies between nodes that stay float: pure cost"
        else:
            message = (
                f"the constant {name} is made float again in every run, for a float node; stored"
                " as float it costs no time and more bytes"
            )
        yield Fault("pure-overhead", label(node), message, possible)


def idle(model: ir.Model) -> list[ir.Node]:
    """The Qs of pairs, and the DQs of constants, that no integer kernel is the better for.

    Nodes that only move codes do not count, unless they are joined to one that computes.
    """
    kept = _kept(model)
    found = []
    for node in all_nodes(model):
        if is_quantize(node):
            after = readers(node.outputs[0])
            pair = bool(after) and all(is_dequantize(each) for each in after)
            if pair and node not in kept and not any(each in kept for each in after):
                found.append(node)
        elif is_dequantize(node) and node not in kept and constant_codes(node) is not None:
            found.append(node)
    return found


def _kept(model: ir.Model) -> set[ir.Node]:
    """The Q and DQ nodes around nodes that run in integers, islands that compute nothing aside."""
    units = [unit_of(node) for node in all_nodes(model) if not is_byte_op(node)]
    running = [
        unit
        for unit in units
        if any(maker is not None for maker in unit.sources) and blocked(unit) is None
    ]
    # A pair is the same thing for the node before it and for those after it.
    around = {unit.node: {_pair(each) for each in _touching(unit)} for unit in running}
    working = [unit.node for unit in running if _computes(unit)]
    by_pair: dict[ir.Node, list[ir.Node]] = {}
    for node, pairs in around.items():
        for pair in pairs:
            by_pair.setdefault(pair, []).append(node)
    reached = set(working)
    while working:
        for pair in around[working.pop()]:
            new = [node for node in by_pair[pair] if node not in reached]
            reached.update(new)
            working.extend(new)
    return {each for unit in running if unit.node in reached for each in _touching(unit)}


def _touching(unit: Unit) -> list[ir.Node]:
    return [maker for maker in (*unit.sources, *unit.sinks) if maker is not None]


def _pair(node: ir.Node) -> ir.Node:
    value = node.inputs[0]
    maker = None if value is None or is_quantize(node) else value.producer()
    return maker if maker is not None and is_quantize(maker) else node


def _computes(unit: Unit) -> bool:
    placement = PLACEMENTS.get(unit.node.op_type)
    return placement is not None and placement.kind in ("weighted", "arithmetic")
