"""How operators do the same work on tensors whose axes come in another order.

An operator that is not in the tables below needs its axes where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxopt import ops
from onnxopt.rewrite.axes import Perm, grown, is_identity, left_of, placed
from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.forms import normal_axes
from onnxopt.rewrite.hit import NodeView, Unmatched

TRANSPOSITION = 4
"""What a transposition costs; gathering from a shape costs a little less."""


@dataclass(frozen=True, slots=True)
class Move:
    """How a node runs in other layouts.

    `inputs` and `outputs` give the layouts of those that change; a constant input of lower rank is
    brought to the layout's rank. `attributes` and `constants` (by input) replace what names axes.
    `picks`, for a Shape, are the axes to gather from the other shape. `cost` is what the move
    costs where it is done, in parts of a transposition.
    """

    inputs: dict[int, Perm]
    outputs: dict[int, Perm] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[int, np.ndarray[Any, np.dtype[Any]]] = field(default_factory=dict)
    picks: tuple[int, ...] | None = None
    cost: int = 0


def moved(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    """How the node runs when its input `slot` (None: its first output) is in the layout `perm`.

    None where it can't, or where too little is known.
    """
    handler = _HANDLERS.get(node.op_type) if node.is_op() else None
    if handler is None:
        return None
    try:
        move = handler(node, perm, slot)
    except Unmatched:
        return None
    if move is None or (slot is not None and slot not in move.inputs):
        return None
    return _without_identities(move)


def make(op: RewriteBuilder, node: NodeView, move: Move, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The node as `move` says, reading `inputs`; gives its outputs."""
    operands = list(inputs)
    for slot, array in move.constants.items():
        operands += [None] * (slot + 1 - len(operands))
        operands[slot] = op.const(array)
    count = len(node.outputs)
    made = op.node(node.op_type, operands, outputs=count, like=node, **move.attributes)
    if move.picks is not None:
        return (op.Gather(made, op.ints(move.picks)),)
    return (made,) if count == 1 else tuple(made)


def _without_identities(move: Move) -> Move:
    outputs = {index: perm for index, perm in move.outputs.items() if not is_identity(perm)}
    inputs = {slot: perm for slot, perm in move.inputs.items() if not is_identity(perm)}
    return Move(inputs, outputs, move.attributes, move.constants, move.picks, move.cost)


def _unary(node: NodeView, perm: Perm, slot: int | None) -> Move:
    return Move({0: perm}, {0: perm})


def _broadcast(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    rank = node.output.rank
    if rank is None:
        return None
    perm = tuple(range(rank - len(perm))) + tuple(axis + rank - len(perm) for axis in perm)
    inputs: dict[int, Perm] = {}
    for index, operand in enumerate(node.inputs):
        if operand is None or operand.shape is None:
            return None
        if all(dim == 1 for dim in operand.shape):
            continue
        lead = rank - len(operand.shape)
        if any(axis < lead for axis in perm[lead:]):
            if not operand.is_const:
                return None
            lead = 0
        inputs[index] = tuple(axis - lead for axis in perm[lead:])
    return Move(inputs, {0: perm})


def _at_axis(node: NodeView, perm: Perm, slot: int | None) -> Move:
    """One axis attribute, the first input, every output."""
    axis = perm[node.attr("axis")]
    return Move({0: perm}, dict.fromkeys(range(len(node.outputs)), perm), {"axis": axis})


def _softmax(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    last = len(perm) - 1
    is_last = node.attr("axis") in (-1, last)
    if node.opset < 13 and not (is_last and perm[last] == last):
        return None
    move = _at_axis(node, perm, slot)
    # onnxruntime transposes inside where the axis is not the last one.
    cost = TRANSPOSITION if is_last and perm[last] != last else 0
    return Move(move.inputs, move.outputs, move.attributes, cost=cost)


def _concat(node: NodeView, perm: Perm, slot: int | None) -> Move:
    inputs = dict.fromkeys(range(len(node.inputs)), perm)
    return Move(inputs, {0: perm}, {"axis": perm[node.attr("axis")]})


def _changed(
    node: NodeView, perm: Perm, slot: int | None, axes: Sequence[int], *, adds: bool = False
) -> tuple[Perm, Perm]:
    """The layouts of input and output where `axes` are in only one of the two (the larger)."""
    asked_larger = (slot is None) == adds
    larger = perm if asked_larger else grown(perm, axes)
    smaller = left_of(larger, axes)
    return (smaller, larger) if adds else (larger, smaller)


def _axes_at(node: NodeView, axes: Iterable[int], larger: Perm) -> dict[str, Any]:
    """Where the node's own axes are in the layout, as Move's attributes or constants."""
    numbers = sorted(larger[axis] for axis in axes)
    if node.has("axes"):
        return {"attributes": {"axes": numbers}}
    return {"constants": {1: np.array(numbers, np.int64)}} if node.input(1) else {}


def _reduce(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    rank = node.inputs[0].rank if node.inputs[0] else None
    written = node.axes()
    if rank is None or (not written and node.attr("noop_with_empty_axes")):
        return None
    axes = normal_axes(written or range(rank), rank)
    if node.attr("keepdims"):
        return Move({0: perm}, {0: perm}, **_axes_at(node, axes, perm))
    before, after = _changed(node, perm, slot, axes)
    return Move({0: before}, {0: after}, **_axes_at(node, axes, before))


def _arg(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    rank = node.inputs[0].rank if node.inputs[0] else None
    if rank is None:
        return None
    axes = normal_axes([node.attr("axis")], rank)
    kept = node.attr("keepdims")
    before, after = (perm, perm) if kept else _changed(node, perm, slot, axes)
    return Move({0: before}, {0: after}, {"axis": before[axes[0]]})


def _squeeze(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    rank = node.inputs[0].rank if node.inputs[0] else None
    written = node.axes()
    if rank is None or written is None:
        return None
    axes = normal_axes(written, rank)
    before, after = _changed(node, perm, slot, axes)
    return Move({0: before}, {0: after}, **_axes_at(node, axes, before))


def _unsqueeze(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    rank, written = node.output.rank, node.axes()
    if rank is None or written is None:
        return None
    axes = normal_axes(written, rank)
    before, after = _changed(node, perm, slot, axes, adds=True)
    return Move({0: before}, {0: after}, **_axes_at(node, axes, after))


def _gather(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    table, indices = node.inputs[0], node.inputs[1]
    if table is None or indices is None or table.rank is None or indices.rank not in (0, 1):
        return None
    axes = normal_axes([node.attr("axis")], table.rank)
    before, after = (perm, perm) if indices.rank else _changed(node, perm, slot, axes)
    return Move({0: before}, {0: after}, {"axis": before[axes[0]]})


def _pad(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    if node.has("pads"):
        return Move({0: perm}, {0: perm}, {"pads": _placed_pads(node.attr("pads"), perm)})
    axes = node.input(3)
    if axes is not None:
        return _with_axes_input(node, perm, 3)
    pads = node.input(1)
    if pads is None or pads.ints is None:
        return None
    turned = np.array(_placed_pads(pads.ints, perm), np.int64)
    return Move({0: perm}, {0: perm}, constants={1: turned})


def _placed_pads(pads: Sequence[int], perm: Perm) -> list[int]:
    half = len(perm)
    return [*placed(pads[:half], perm), *placed(pads[half:], perm)]


def _with_axes_input(node: NodeView, perm: Perm, index: int) -> Move | None:
    """Axes in an input of their own; the numbers that go with them may come at run time."""
    operand = node.input(index)
    if operand is None or operand.ints is None:
        return None
    axes = np.array([perm[axis] for axis in operand.ints], operand.array.dtype)
    return Move({0: perm}, {0: perm}, constants={index: axes})


def _slice(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    if node.has("starts"):
        axes = node.attr("axes") or range(len(node.attr("starts")))
        return Move({0: perm}, {0: perm}, {"axes": [perm[axis] for axis in axes]})
    if node.input(3) is not None:
        return _with_axes_input(node, perm, 3)
    starts = node.input(1)
    count = None if starts is None else starts.dim(0)
    if starts is None or count is None or starts.dtype is None:
        return None
    axes = np.array(perm[:count], starts.dtype.numpy())
    return Move({0: perm}, {0: perm}, constants={3: axes})


def _resize(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    if node.has("axes"):
        resized = [perm[axis] for axis in node.attr("axes")]
        found: Any = {"attributes": {"axes": resized}}
    else:
        index, numbers = _resize_numbers(node)
        if len(numbers) != len(perm):
            return None
        resized = [perm[axis] for axis in _resized(node, index, numbers)]
        turned = np.asarray(placed(numbers, perm), numbers.dtype)
        found = {"constants": {index: turned}} if index else {"attributes": {"scales": turned}}
    # onnxruntime interpolates fast, or at all, only along the last axes.
    trailing = min(resized, default=0) >= len(perm) - len(resized)
    if node.attr("mode") != "nearest" and not trailing:
        return None
    return Move({0: perm}, {0: perm}, **found)


def _resize_numbers(node: NodeView) -> tuple[int, np.ndarray[Any, np.dtype[Any]]]:
    """Scales or sizes and the input they come in (0: an attribute); raises Unmatched otherwise."""
    if node.has("scales"):
        return 0, np.asarray(node.attr("scales"), np.float32)
    candidates = (1,) if node.op_type == "Upsample" or node.opset < 11 else (2, 3)
    for index in candidates:
        operand = node.input(index)
        if operand is not None and operand.array.size:
            return index, operand.array
    raise Unmatched("no scales")


def _resized(node: NodeView, index: int, numbers: Iterable[Any]) -> list[int]:
    """The axes that a Resize changes, all where sizes leave that open."""
    x = node.inputs[0]
    if index != 3:
        return [axis for axis, scale in enumerate(numbers) if scale != 1]
    return [axis for axis, size in enumerate(numbers) if x is None or x.dim(axis) != size]


def _per_axis(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    """Expand and Tile: a constant number for each axis."""
    numbers = node.inputs[1]
    x = node.inputs[0]
    if numbers is None or x is None or numbers.ints is None or x.rank != len(perm):
        return None
    values = [1] * (len(perm) - len(numbers.ints)) + numbers.ints
    if len(values) != len(perm):
        return None
    turned = np.array(placed(values, perm), np.int64)
    return Move({0: perm}, {0: perm}, constants={1: turned})


def _cum_sum(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    axis = node.inputs[1]
    if axis is None or axis.ints is None:
        return None
    return Move({0: perm}, {0: perm}, constants={1: np.full_like(axis.array, perm[axis.ints[0]])})


def _quantize(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    scale = node.inputs[1]
    if scale is None or scale.rank is None or node.attr("block_size"):
        return None
    if scale.rank == 0 or node.opset < 13:
        return Move({0: perm}, {0: perm})
    return Move({0: perm}, {0: perm}, {"axis": perm[node.attr("axis")]})


def _channels_second(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    fixed = perm[1] == 1 and (node.op_type == "BatchNormalization" or perm[0] == 0)
    return Move({0: perm}, {0: perm}) if fixed and _one_output(node) else None


def _normalized_last(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    first = node.attr("axis") % len(perm)
    fixed = all(perm[axis] == axis for axis in range(first, len(perm)))
    return Move({0: perm}, {0: perm}) if fixed and _one_output(node) else None


def _mat_mul(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    left, right = node.inputs
    rank = len(perm)
    if left is None or right is None or left.rank != rank or perm[-1] != rank - 1:
        return None
    if right.rank == 2 and rank > 2:
        return Move({0: perm}, {0: perm})
    if right.rank != rank or perm[-2] != rank - 2 or rank < 3:
        return None
    return Move({0: perm, 1: perm}, {0: perm})


def _shape(node: NodeView, perm: Perm, slot: int | None) -> Move | None:
    if slot is None:
        return None
    picks = perm[node.attr("start") or 0 : node.attr("end")]
    return Move({0: perm}, {}, {"start": None, "end": None}, picks=picks, cost=TRANSPOSITION - 1)


def _one_output(node: NodeView) -> bool:
    return not any(output.name for output in node.outputs[1:])


_Handler = Callable[[NodeView, Perm, "int | None"], "Move | None"]

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(ops.ELEMENTWISE_UNARY, _unary),
    **dict.fromkeys(ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC, _broadcast),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(("LpNormalization", "Split", "TopK"), _at_axis),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantize),
    **dict.fromkeys(("Expand", "Tile"), _per_axis),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalized_last),
    **dict.fromkeys(
        ("BatchNormalization", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization"),
        _channels_second,
    ),
    "CastLike": _unary,
    "Concat": _concat,
    "CumSum": _cum_sum,
    "Gather": _gather,
    "MatMul": _mat_mul,
    "Pad": _pad,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""For each operator, how it runs in a layout that one of its inputs or its output has."""
