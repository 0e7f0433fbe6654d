"""Moves the channels of linear values around zero, so that one grid for all of them is finer.

Where no activation stands behind a product, as in the bottlenecks of mobile networks, channels lie
around different numbers, and a grid has to reach over all of them. What a channel lies around is a
constant: it is taken from the bias of the weights that write the channel, and what it amounts to
is added to the bias of those that read it. Sums of such values move by the sum. The model computes
the same, as long as nothing else reads the values and no reader pads them with zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.quantize.channels import ChannelStatistics, channel_statistics
from onnxopt.quantize.draft import Draft, drop_unread
from onnxopt.quantize.stream import Stream, adds_alike
from onnxopt.rewrite.hit import NodeView

Array = np.ndarray[Any, np.dtype[Any]]

ENOUGH = 0.97
"""Centring is left where it does not bring the mean squared range below this share."""


def centre_channels(model: ir.Model, feeds: Iterable[Feed], *, threads: int = 0) -> int:
    """Centre the linear streams of a model in place where ranges get smaller; how many of them.

    Shapes have to be known. Ranges of the model have to be measured anew afterwards.
    """
    found = linear_streams(model)
    names = [value.name or "" for stream in found for value in stream.values]
    if not names:
        return 0
    statistics = channel_statistics(model, feeds, names, threads=threads)
    draft = Draft(model)
    changed = 0
    for stream in found:
        if any(value.name not in statistics for value in stream.values):
            continue
        shifts = _shifts(stream, statistics)
        if not _narrows(stream, statistics, shifts):
            continue
        for node in stream.writers:
            _add_to_bias(model, draft, node, -shifts[node.outputs[0]])
        for node in stream.readers:
            source = node.inputs[0]
            assert source is not None
            _add_to_bias(model, draft, node, _amount(node, shifts[source]))
        changed += 1
    if changed:
        drop_unread(model)
    return changed


def linear_streams(model: ir.Model) -> list[Stream]:
    """The streams of linear values that can be moved."""
    found = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        if not _is_product(node) or node.outputs[0] in seen:
            continue
        stream = _followed(model.graph, node.outputs[0], seen)
        if stream is not None and stream.readers:
            found.append(stream)
    return found


def _followed(graph: ir.Graph, start: ir.Value, seen: set[ir.Value]) -> Stream | None:
    """The stream that a value belongs to; None where something else reads or writes it."""
    values: dict[ir.Value, None] = {}
    writers: dict[ir.Node, None] = {}
    readers: dict[ir.Node, None] = {}
    free = True
    waiting = [start]
    while waiting:
        value = waiting.pop()
        if value in values:
            continue
        values[value] = None
        maker = value.producer()
        free &= not value.is_graph_output()
        beside = [use.node for use in value.uses() if not _reads(use.node, use.idx)]
        readers.update((use.node, None) for use in value.uses() if _reads(use.node, use.idx))
        if maker is not None and _is_product(maker):
            writers[maker] = None
        else:
            beside.append(maker) if maker is not None else None
            free &= maker is not None
        free &= all(node.graph is graph for node in readers)
        for node in beside:
            if node.graph is graph and _is_sum(node):
                waiting += [each for each in (*node.inputs, *node.outputs) if each is not None]
            else:
                free = False
    seen.update(values)
    return Stream(tuple(values), tuple(writers), tuple(readers)) if free else None


def _shifts(stream: Stream, statistics: Mapping[str, ChannelStatistics]) -> dict[ir.Value, Array]:
    """What each value moves by: the middle of its range for products, and the sums of those."""
    found: dict[ir.Value, Array] = {}
    for node in stream.writers:
        told = statistics[node.outputs[0].name or ""]
        found[node.outputs[0]] = (told.low + told.high) / 2
    waiting = [value for value in stream.values if value not in found]
    while waiting:
        value = waiting.pop(0)
        maker = value.producer()
        assert maker is not None
        parts = [found[each] for each in maker.inputs if each is not None and each in found]
        if len(parts) == len(maker.inputs):
            found[value] = np.sum(parts, axis=0)
        else:
            waiting.append(value)
    return found


def _narrows(
    stream: Stream,
    statistics: Mapping[str, ChannelStatistics],
    shifts: Mapping[ir.Value, Array],
) -> bool:
    before = after = 0.0
    for value in stream.values:
        told, shift = statistics[value.name or ""], shifts[value]
        before += _span(told.low, told.high) ** 2
        after += _span(told.low - shift, told.high - shift) ** 2
    return after < ENOUGH * before


def _span(low: Array, high: Array) -> float:
    return float(max(high.max(), 0.0) - min(low.min(), 0.0))


def _is_product(node: ir.Node) -> bool:
    """Whether the node is a product with a constant weight whose bias is free to be changed."""
    if not ops.is_standard(node, "Conv", "Gemm") or not ops.is_constant(node.inputs[1]):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Conv":
        return bias is None or ops.is_constant(bias)
    view = NodeView(node)
    plain = view.attr("alpha", 1.0) == 1.0 and view.attr("beta", 1.0) == 1.0
    tensor = ops.constant(bias)
    return plain and tensor is not None and tuple(tensor.shape.numpy()) == (_outputs(node),)


def _reads(node: ir.Node, slot: int) -> bool:
    """Whether the node takes a shift of its input as a change of its bias, and nothing else."""
    if slot != 0 or not _is_product(node):
        return False
    view = NodeView(node)
    if node.op_type == "Gemm":
        return not view.attr("transA", 0)
    automatic = view.attr("auto_pad", "NOTSET")
    return automatic == "VALID" or (automatic == "NOTSET" and not any(view.attr("pads", ()) or ()))


def _is_sum(node: ir.Node) -> bool:
    return adds_alike(node) and not any(ops.is_constant(each) for each in node.inputs)


def _outputs(node: ir.Node) -> int:
    weight = ops.constant(node.inputs[1])
    assert weight is not None
    rows_first = node.op_type == "Conv" or NodeView(node).attr("transB", 0)
    return int(weight.shape.numpy()[0 if rows_first else 1])


def _amount(node: ir.Node, shift: Array) -> Array:
    """What a shift of the input's channels adds to the output's: float64 [channels]."""
    tensor = ops.constant(node.inputs[1])
    assert tensor is not None
    weight = tensor.numpy().astype(np.float64)
    if node.op_type == "Gemm":
        return np.asarray(weight @ shift if NodeView(node).attr("transB", 0) else shift @ weight)
    sums = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    groups = int(NodeView(node).attr("group", 1))
    parts = np.repeat(shift.reshape(groups, -1), len(sums) // groups, axis=0)
    return np.asarray((sums * parts).sum(axis=1))


def _add_to_bias(model: ir.Model, draft: Draft, node: ir.Node, amount: Array) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor, weight = ops.constant(bias), ops.constant(node.inputs[1])
    assert weight is not None
    old = np.zeros(len(amount)) if tensor is None else tensor.numpy().astype(np.float64)
    name = (bias.name if bias is not None else None) or f"{node.outputs[0].name}_bias"
    made = (old + amount).astype(weight.dtype.numpy())
    new = draft.constant(model.graph, f"{name}_centred", made, weight.dtype)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, new)
