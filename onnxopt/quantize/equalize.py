"""Moves scale from one product to the next, so that the channels between them are alike.

An activation has one grid for all channels: beside a channel that reaches 20, one that reaches 0.2
is left with a handful of codes. Where everything between two products is positively homogeneous
(f(s x) = s f(x) for s > 0), a channel can be multiplied by s in the weights that write it and
divided by s in those that read it, and the model computes the same. This is cross-layer
equalization (Nagel et al., Data-Free Quantization, arXiv 1906.04721) and, behind a
LayerNormalization, SmoothQuant (Xiao et al., arXiv 2211.10438).

A Clip with an upper bound, as Relu6 is one, is not homogeneous: scaled channels would be cut off
elsewhere, and the bound is one number for all channels. Such places are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.config import Exactness
from onnxopt.passes.base import Context, PassResult, Refusal
from onnxopt.quantize.channels import ChannelStatistics, channel_statistics
from onnxopt.quantize.stream import Stream, adds_alike
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.names import Names

Array = np.ndarray[Any, np.dtype[Any]]

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
)
"""They keep channels apart, and a positive factor passes through them."""

MOST = 32.0
"""No channel is scaled by more, up or down, than this."""


@dataclass(frozen=True, slots=True)
class EqualizePass:
    """Equalize every stream of channels that can be scaled, from the samples in `feeds`.

    `strength` is the share of the channels' differences that moves into the weights that read them:
    1 makes the channels equal, 0 those weights.
    """

    feeds: Sequence[Feed]
    strength: float = 0.5
    threads: int = 0

    @property
    def name(self) -> str:
        return "equalize"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        found, refusals = streams(model)
        names = [value.name or "" for stream in found for value in stream.values]
        if not names:
            return PassResult(False, refusals=tuple(refusals))
        statistics = channel_statistics(model, self.feeds, names, threads=self.threads)
        hits = equalize(model, found, statistics, strength=self.strength)
        return PassResult(
            hits > 0, {"equalize": hits} if hits else {}, tuple(refusals), Exactness.CLOSE
        )


def equalize(
    model: ir.Model,
    found: Sequence[Stream],
    statistics: Mapping[str, ChannelStatistics],
    *,
    strength: float = 0.5,
) -> int:
    """Scale the channels of each stream, in place; how many streams were changed.

    Ranges and moments of the model have to be measured anew afterwards.
    """
    names = Names([model.graph, *model.graph.subgraphs()])
    changed = 0
    for stream in found:
        factors = stream_factors(stream, statistics, strength)
        if np.allclose(factors, 1.0, rtol=0.05):
            continue
        for node in stream.writers:
            _scale_writer(model.graph, node, factors, names)
        for node in stream.readers:
            _scale_input(model.graph, node, 1, 1 / factors, _reading_axis(node), names)
        changed += 1
    return changed


def stream_factors(
    stream: Stream, statistics: Mapping[str, ChannelStatistics], strength: float
) -> Array:
    """What each channel is multiplied by: float64 [channels], with a geometric mean of one."""
    spans = [
        np.maximum(np.abs(statistics[value.name or ""].low), statistics[value.name or ""].high)
        for value in stream.values
        if value.name in statistics
    ]
    weights = [_reach(node) for node in stream.readers]
    channels = _channels(stream.writers[0])
    if not spans or any(len(span) != channels for span in spans):
        return np.ones(channels)
    activation, weight = _share(spans), _share(weights)
    alive = (activation > 0) & (weight > 0)
    factors = np.ones(channels)
    factors[alive] = weight[alive] ** (1 - strength) / activation[alive] ** strength
    factors[alive] /= np.exp(np.log(factors[alive]).mean()) if alive.any() else 1.0
    return np.asarray(np.clip(factors, 1 / MOST, MOST))


def streams(model: ir.Model) -> tuple[list[Stream], list[Refusal]]:
    """The streams of channels that can be scaled, and why others can't."""
    found, refusals = [], []
    seen: set[ir.Value] = set()
    for node in model.graph:
        if not _writes(node) or node.outputs[0] in seen:
            continue
        walk = _Walk()
        walk.follow(node.outputs[0])
        seen.update(walk.values)
        if not walk.reason and len(walk.sizes) != 1:
            walk.reason = "its channels differ in number"
        if walk.reason:
            refusals.append(Refusal("equalize", node.name or "", walk.reason))
        elif walk.readers:
            found.append(Stream(tuple(walk.values), tuple(walk.writers), tuple(walk.readers)))
    return found, refusals


class _Walk:
    """Everything that one channel index reaches."""

    def __init__(self) -> None:
        self.values: dict[ir.Value, None] = {}
        self.writers: dict[ir.Node, None] = {}
        self.readers: dict[ir.Node, None] = {}
        self.sizes: set[int] = set()
        self.reason = ""

    def follow(self, start: ir.Value) -> None:
        waiting = [start]
        while waiting:
            value = waiting.pop()
            if value not in self.values:
                self.values[value] = None
                waiting += [*self._back(value), *self._forth(value)]

    def _back(self, value: ir.Value) -> list[ir.Value]:
        maker = value.producer()
        if maker is None:
            self.reason = self.reason or f"{value.name} is an input or a constant"
        elif _writes(maker):
            self.writers[maker] = None
            self.sizes.add(_channels(maker))
        else:
            return self._through(maker)
        return []

    def _forth(self, value: ir.Value) -> list[ir.Value]:
        if value.is_graph_output():
            self.reason = self.reason or f"{value.name} is an output of the model"
        onward: list[ir.Value] = []
        for use in value.uses():
            if _reads(use.node) and use.idx == 0:
                self.readers[use.node] = None
                self.sizes.add(len(_reach(use.node)))
            else:
                onward += self._through(use.node)
        return onward

    def _through(self, node: ir.Node) -> list[ir.Value]:
        """The values on both sides of a node that a factor passes through."""
        if ops.is_standard(node, *HOMOGENEOUS) and len(node.outputs) == 1:
            return [v for v in (node.inputs[0], node.outputs[0]) if v is not None]
        if adds_alike(node):
            return [v for v in (*node.inputs, *node.outputs) if v is not None]
        bound = "a Clip cuts scaled channels elsewhere" if node.op_type == "Clip" else ""
        self.reason = self.reason or bound or f"no factor passes through {node.op_type}"
        return []


def _writes(node: ir.Node) -> bool:
    if ops.is_standard(node, "Conv"):
        return ops.is_constant(node.inputs[1]) and _constant_or_absent(node, 2)
    return (
        ops.is_standard(node, "LayerNormalization")
        and ops.is_constant(node.inputs[1])
        and NodeView(node).attr("axis", -1) == -1
        and _constant_or_absent(node, 2)
    )


def _constant_or_absent(node: ir.Node, slot: int) -> bool:
    operand = node.inputs[slot] if slot < len(node.inputs) else None
    return operand is None or ops.is_constant(operand)


def _reads(node: ir.Node) -> bool:
    weight = ops.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None:
        return False
    if ops.is_standard(node, "Conv"):
        group = NodeView(node).attr("group", 1)
        return bool(group == 1 or (weight.shape[1] == 1 and weight.shape[0] == group))
    if ops.is_standard(node, "Gemm"):
        return not NodeView(node).attr("transA", 0)
    return ops.is_standard(node, "MatMul") and len(weight.shape) == 2


def _reading_axis(node: ir.Node) -> int:
    """The axis of the weight along which the channels that it reads lie."""
    view = NodeView(node)
    if node.op_type == "Conv":
        return 1 if view.attr("group", 1) == 1 else 0
    return 1 if node.op_type == "Gemm" and view.attr("transB", 0) else 0


def _channels(writer: ir.Node) -> int:
    weight = ops.constant(writer.inputs[1])
    assert weight is not None
    return int(weight.shape.numpy()[0 if writer.op_type == "Conv" else -1])


def _reach(reader: ir.Node) -> Array:
    """The largest weight that each channel meets: float64 [channels]."""
    weight = ops.constant(reader.inputs[1])
    assert weight is not None
    array = np.abs(np.moveaxis(weight.numpy(), _reading_axis(reader), 0).astype(np.float64))
    return np.asarray(array.reshape(len(array), -1).max(axis=1))


def _share(rows: Sequence[Array]) -> Array:
    """The largest part of a row's maximum that each channel reaches in any row."""
    return np.asarray(np.max([row / max(row.max(initial=0), 1e-30) for row in rows], axis=0))


def _scale_writer(graph: ir.Graph, node: ir.Node, factors: Array, names: Names) -> None:
    axis = 0 if node.op_type == "Conv" else -1
    _scale_input(graph, node, 1, factors, axis, names)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _scale_input(graph, node, 2, factors, 0, names)


def _scale_input(
    graph: ir.Graph, node: ir.Node, slot: int, factors: Array, axis: int, names: Names
) -> None:
    """Multiply a constant operand along `axis`; other readers keep the old one."""
    operand = node.inputs[slot]
    tensor = ops.constant(operand)
    assert operand is not None and tensor is not None
    array = tensor.numpy()
    shape = [1] * array.ndim
    shape[axis] = -1
    scaled = (array.astype(np.float64) * factors.reshape(shape)).astype(array.dtype)
    name = names.value(f"{operand.name}_equalized")
    value = ir.Value(
        name=name,
        type=operand.type,
        shape=ir.Shape(scaled.shape),
        const_value=ir.tensor(scaled, dtype=tensor.dtype, name=name),
    )
    graph.register_initializer(value)
    node.replace_input_with(slot, value)
    if not operand.uses() and operand.name in graph.initializers and operand not in graph.outputs:
        del graph.initializers[operand.name or ""]
