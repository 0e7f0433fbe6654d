"""Gives channels an order in which neighbours do not overflow 16 bits, so that scales stay fine.

Kernels without VNNI add the products of two neighbouring channels in 16 bits (see saturation), and
a row in which two large weights of one sign are neighbours gets a coarser scale for it. Which
channels are neighbours is free where channels only pass from the weights that write them to those
that read them: all of these are put in another order, and the model computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.draft import Draft, drop_unread
from onnxopt.quantize.saturation import is_depthwise, pair_limit
from onnxopt.rewrite.hit import NodeView

Array = np.ndarray[Any, np.dtype[Any]]

_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool")
_FLAT = ("Flatten", "Reshape", "Squeeze")
_LIMIT = pair_limit(255) / 127
"""The largest safe sum of two weights of one sign, in units of the largest weight of the row."""
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant input of a node, and its axis along which the channels lie."""

    node: ir.Node
    slot: int
    axis: int


@dataclass(frozen=True, slots=True)
class Channels:
    """Constants that share one channel index; `readers` are the weights that sum over it."""

    size: int
    others: tuple[Operand, ...]
    readers: tuple[Operand, ...]


def order_channels(model: ir.Model) -> int:
    """Reorder channels in place where that spares rows a coarser scale; how many sets of channels.

    Shapes have to be known. Values stay equal but for the order of sums and of inner channels.
    """
    draft = Draft(model)
    changed = 0
    for channels in free_channels(model):
        rows = np.concatenate([_rows(each) for each in channels.readers])
        order = spread(rows)
        if order is None:
            continue
        for operand in (*channels.others, *channels.readers):
            _reorder(model, draft, operand, order)
        changed += 1
    if changed:
        drop_unread(model)
    return changed


def spread(rows: Array) -> Array | None:
    """An order in which fewer neighbours 2i, 2i+1 of one sign overflow; None where none is better.

    Args:
        rows: Weights, float64 [rows, channels], the largest of each row 1.
    """
    count = rows.shape[1]
    if count % 2 or not len(rows):
        return None  # With an odd number neighbours differ from one window place to the next.
    before = float(_excess(rows[:, 0::2], rows[:, 1::2]).sum())
    if before < _LEAST:
        return None
    order, after = _matched(rows)
    return order if after < 0.9 * before else None


def _matched(rows: Array) -> tuple[Array, float]:
    """Pairs of channels, heaviest first: each with the heaviest that it overflows least with."""
    size = np.abs(rows).max(axis=0)
    heavy = np.abs(rows) > _LIMIT / 2
    at, channel = np.nonzero(heavy)
    values = rows[at, channel]
    free = np.ones(len(size), bool)
    order: list[int] = []
    total = 0.0
    for first in np.argsort(-size, kind="stable"):
        if not free[first]:
            continue
        free[first] = False
        left = np.flatnonzero(free)
        own = heavy[:, first]
        cost = _excess(rows[own], rows[own, first, None]).sum(axis=0)
        # Rows in which only the other channel is heavy.
        theirs = ~own[at]
        more = _excess(values[theirs], rows[at[theirs], first])
        cost = (cost + np.bincount(channel[theirs], more, len(size)))[left]
        close = left[cost <= cost.min() + _LEAST]
        second = close[np.argmax(size[close])]
        free[second] = False
        order += [int(first), int(second)]
        total += float(cost.min())
    return np.array(order), total


def _excess(left: Array, right: Array) -> Array:
    """How far two weights of one sign add up past what is safe, squared."""
    over = np.where(left * right > 0, np.abs(left + right) - _LIMIT, 0.0)
    return np.asarray(np.square(np.maximum(over, 0.0)))


def free_channels(model: ir.Model) -> list[Channels]:
    """Every set of channels that only constants write and read, each set once."""
    found = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        operands = _written(node)
        if not operands or node.outputs[0] in seen:
            continue
        walk = _Walk(model.graph, _channels_of(operands[0]))
        walk.follow(node.outputs[0], _axis_written(node))
        seen.update(walk.values)
        if walk.free and walk.readers:
            found.append(Channels(walk.size, tuple(walk.others), tuple(walk.readers)))
    return found


class _Walk:
    """Everything that one channel index reaches; `free` while nothing else looks at it."""

    def __init__(self, graph: ir.Graph, size: int) -> None:
        self.size = size
        self.free = True
        self.values: dict[ir.Value, int] = {}
        self.others: dict[Operand, None] = {}
        self.readers: dict[Operand, None] = {}
        self._graph = graph

    def follow(self, start: ir.Value, axis: int) -> None:
        waiting = [(start, axis)]
        while waiting:
            value, axis = waiting.pop()
            if value in self.values:
                self.free &= self.values[value] == axis
                continue
            self.values[value] = axis
            dims = _dims(value)
            if dims is None or dims[axis] != self.size or value.is_graph_output():
                self.free = False
                continue
            waiting += [*self._back(value, axis), *self._forth(value, axis)]

    def _back(self, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]]:
        maker = value.producer()
        if maker is None or maker.graph is not self._graph:
            self.free = False
            return []
        if operands := _written(maker):
            self.free &= _axis_written(maker) == axis
            self.others.update(dict.fromkeys(operands))
            return []
        return self._through(maker, axis, value)

    def _forth(self, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]]:
        onward: list[tuple[ir.Value, int]] = []
        for use in value.uses():
            node = use.node
            if node.graph is not self._graph:
                self.free = False
            elif operand := _read(node, use.idx, axis):
                self.readers[operand] = None
            else:
                onward += self._through(node, axis, value)
        return onward

    def _through(self, node: ir.Node, axis: int, value: ir.Value) -> list[tuple[ir.Value, int]]:
        """The values on both sides of a node that keeps channels apart, with their axes."""
        beside = _beside(node, axis, value, self.size)
        if beside is None:
            self.free = False
            return []
        around, operands = beside
        self.others.update(dict.fromkeys(operands))
        return around


_Around = tuple[list[tuple[ir.Value, int]], list[Operand]]


def _beside(node: ir.Node, axis: int, value: ir.Value, size: int) -> _Around | None:
    if not ops.is_standard(node) or len(node.outputs) != 1 or node.inputs[0] is None:
        return None
    ends = [(node.inputs[0], axis), (node.outputs[0], axis)]
    if node.op_type == "Conv" and axis == 1 and _is_depthwise(node):
        slots = [1] + [2] * (len(node.inputs) > 2 and node.inputs[2] is not None)
        operands = [Operand(node, slot, 0) for slot in slots]
        return (ends, operands) if all(_is_constant(each) for each in operands) else None
    if node.op_type in ops.ELEMENTWISE_UNARY or (node.op_type in _POOLS and axis == 1):
        return ends, []
    if node.op_type in _FLAT and axis == 1 and all(_is_row(end, size) for end, _ in ends):
        return ends, []
    if node.op_type in ops.ELEMENTWISE_BINARY:
        return _beside_binary(node, axis, value, size)
    return None


def _beside_binary(node: ir.Node, axis: int, value: ir.Value, size: int) -> _Around | None:
    """Both operands and the output; what has one element for all channels does not matter."""
    around: list[tuple[ir.Value, int]] = []
    operands: list[Operand] = []
    own = _dims(value)
    if own is None:
        return None
    from_end = axis - len(own)
    for slot, each in enumerate((*node.inputs, *node.outputs)):
        dims = None if each is None else _dims(each)
        if each is None or dims is None:
            return None
        if -from_end > len(dims) or dims[from_end] == 1:
            continue
        if dims[from_end] != size:
            return None
        if ops.is_constant(each):
            operands.append(Operand(node, slot, len(dims) + from_end))
        else:
            around.append((each, len(dims) + from_end))
    return around, operands


def _written(node: ir.Node) -> list[Operand]:
    """The constants whose channels a product writes; none where it is no such product."""
    if not ops.is_standard(node, "Conv", "Gemm", "MatMul") or len(node.inputs) < 2:
        return []
    weight = Operand(node, 1, _axis_of_weight(node, reads=False))
    if not _is_constant(weight) or (node.op_type == "Conv" and _group(node) != 1):
        return []
    if node.op_type == "MatMul":
        return [weight] if _rank(weight) == 2 else []
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return [weight]
    bias = Operand(node, 2, _rank(Operand(node, 2, 0)) - 1)
    if not _is_constant(bias):
        return []
    whole = bias.axis >= 0 and _channels_of(bias) == _channels_of(weight)
    return [weight, bias] if whole else [weight] if _elements(bias) == 1 else []


def _axis_written(node: ir.Node) -> int:
    if node.op_type != "MatMul":
        return 1
    dims = _dims(node.outputs[0])
    return -1 if dims is None else len(dims) - 1


def _read(node: ir.Node, slot: int, axis: int) -> Operand | None:
    """The weight of a product that sums over the channels, None where it does something else."""
    if not ops.is_standard(node, "Conv", "Gemm", "MatMul") or slot != 0:
        return None
    weight = Operand(node, 1, _axis_of_weight(node, reads=True))
    dims = _dims(node.inputs[0])
    if not _is_constant(weight) or dims is None:
        return None
    if node.op_type == "Conv":
        return weight if _group(node) == 1 and axis == 1 else None
    if node.op_type == "Gemm" and NodeView(node).attr("transA", 0):
        return None
    return weight if _rank(weight) == 2 and axis == len(dims) - 1 else None


def _axis_of_weight(node: ir.Node, *, reads: bool) -> int:
    """The axis of a weight along which the channels lie that it reads, or those that it writes."""
    rows_first = node.op_type == "Conv" or (
        node.op_type == "Gemm" and bool(NodeView(node).attr("transB", 0))
    )
    return int(rows_first == reads)


def _rows(weight: Operand) -> Array:
    """What a reader joins: float64 [rows, channels], the largest of each output channel 1."""
    tensor = ops.constant(weight.node.inputs[1])
    assert tensor is not None
    array = tensor.numpy().astype(np.float64)
    last = np.moveaxis(array, weight.axis, -1)
    if weight.node.op_type == "Conv":
        largest = np.abs(last).reshape(len(last), -1).max(axis=1)
        last = last / np.maximum(largest, 1e-30).reshape(-1, *[1] * (last.ndim - 1))
    else:
        last = last / np.maximum(np.abs(last).max(axis=-1, keepdims=True), 1e-30)
    return np.asarray(last.reshape(-1, last.shape[-1]))


def _reorder(model: ir.Model, draft: Draft, operand: Operand, order: Array) -> None:
    old = operand.node.inputs[operand.slot]
    tensor = ops.constant(old)
    assert old is not None and tensor is not None
    array = np.ascontiguousarray(np.take(tensor.numpy(), order, axis=operand.axis))
    new = draft.constant(model.graph, f"{old.name}_ordered", array, tensor.dtype)
    operand.node.replace_input_with(operand.slot, new)


def _is_depthwise(node: ir.Node) -> bool:
    weight = ops.constant(node.inputs[1])
    return weight is not None and is_depthwise(weight.shape.numpy(), _group(node))


def _is_row(value: ir.Value, size: int) -> bool:
    """Whether the value is [count, channels] or [count, channels, 1, ...]."""
    dims = _dims(value)
    return dims is not None and len(dims) > 1 and [*dims[1:]] == [size] + [1] * (len(dims) - 2)


def _is_constant(operand: Operand) -> bool:
    return ops.is_constant(operand.node.inputs[operand.slot])


def _rank(operand: Operand) -> int:
    return len(_shape(operand))


def _channels_of(operand: Operand) -> int:
    return int(_shape(operand)[operand.axis])


def _elements(operand: Operand) -> int:
    return int(np.prod(_shape(operand)))


def _shape(operand: Operand) -> Sequence[int]:
    tensor = ops.constant(operand.node.inputs[operand.slot])
    return () if tensor is None else tuple(tensor.shape.numpy())


def _group(node: ir.Node) -> int:
    return int(NodeView(node).attr("group", 1))


def _dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    if value is None or value.shape is None:
        tensor = ops.constant(value)
        return None if tensor is None else tuple(tensor.shape.numpy())
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape.dims)
