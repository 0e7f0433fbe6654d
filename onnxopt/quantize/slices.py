"""Runs a quantized graph product by product, each slice from the codes that the last one stored.

What is measured at a product may change its bias, and what comes behind it must see the change.
Running the whole model anew for each product would be quadratic; here each node runs about twice.
Between slices only the outputs of QuantizeLinear are stored, a byte a number, until the last slice
that reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxopt.runtime.sessions import Session

Array = np.ndarray[Any, np.dtype[Any]]
Feed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A value whose mean is asked for, with its number of channels.

    The channels lie along axis 1, or along the last one where `last` is set. Numbers outside of
    `low` and `high` count as these: it is where what reads the value cuts them off.
    """

    value: str
    channels: int
    last: bool = False
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class Means:
    """Of each channel the mean of the cut numbers, and the share that is not cut: float64."""

    mean: Array
    inside: Array


def channel_means(
    model: onnx.ModelProto, targets: Sequence[Target], feeds: Sequence[Feed], *, threads: int = 0
) -> dict[str, Means]:
    """The means of each target over all feeds, by value name."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for target in targets:
        _measure(probe, target)
    session = Session.open(probe, optimize=True, threads=threads)
    runs = [session.run(feed) for feed in feeds]
    return {
        target.value: _weighted([run[_OUTPUTS * index : _OUTPUTS * (index + 1)] for run in runs])
        for index, target in enumerate(targets)
    }


class Slices:
    """The slices of one quantized model, one for each target, in the order of the targets."""

    def __init__(
        self,
        model: onnx.ModelProto,
        targets: Sequence[Target],
        feeds: Sequence[Feed],
        *,
        threads: int = 0,
    ) -> None:
        self._model = model
        self._targets = targets
        self._feeds = feeds
        self._threads = threads
        self._inputs = {item.name: item for item in model.graph.input}
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._places = {id(node): place for place, node in enumerate(model.graph.node)}
        self._stored: dict[str, list[Array]] = {}
        self._cuts = self._cut()

    def means(self, index: int) -> Means:
        """The means of the target's channels, behind everything that was set before.

        The targets must be asked for in their order, each once.
        """
        target, cut = self._targets[index], self._cuts[index]
        part = self._part(cut)
        _measure(part, target)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in cut.stores)
        session = Session.open(part, optimize=True, threads=self._threads)
        means, kept = [], [[] for _ in cut.stores]  # type: ignore[var-annotated]
        for number, feed in enumerate(self._feeds):
            given = {name: self._stored[name][number] for name in cut.reads}
            given |= {name: feed[name] for name in cut.feeds if name in feed}
            found = session.run(given)
            means.append(found[:_OUTPUTS])
            for store, value in zip(kept, found[_OUTPUTS:], strict=True):
                store.append(value)
        self._stored |= zip(cut.stores, kept, strict=True)
        for name in cut.drops:
            del self._stored[name]
        return _weighted(means)

    def set_bias(self, value: str, bias: Array) -> None:
        """Round `bias` to the int32 codes behind the DequantizeLinear that writes `value`.

        Where the bias stays a float, `value` is the bias itself.
        """
        if value in self._initializers:
            stored = self._initializers[value]
            kept = bias.astype(np.float32).reshape(tuple(stored.dims))
            stored.CopyFrom(numpy_helper.from_array(kept, value))
            return
        codes, scale = (self._initializers[name] for name in self._makers[value].input[:2])
        steps = numpy_helper.to_array(scale).astype(np.float64)
        rounded = np.clip(np.rint(bias / steps), -(2**31), 2**31 - 1).astype(np.int32)
        codes.CopyFrom(numpy_helper.from_array(rounded.reshape(codes.dims), codes.name))

    def _cut(self) -> list[_Cut]:
        """Which nodes each slice holds, and what is stored between them."""
        found: list[tuple[list[onnx.NodeProto], list[str], list[str], list[str]]] = []
        stored: set[str] = set()
        last: dict[str, int] = {}
        for index, target in enumerate(self._targets):
            nodes, leaves = self._behind(target.value, stored)
            reads = sorted(leaves & stored)
            feeds = sorted(leaves & self._inputs.keys())
            made = [node.output[0] for node in nodes if self._is_quantizing(node)]
            last |= dict.fromkeys(reads, index)
            stored |= set(made)
            found.append((nodes, reads, feeds, made))
        return [
            _Cut(
                tuple(nodes),
                tuple(reads),
                tuple(feeds),
                tuple(name for name in made if name in last),
                tuple(name for name in reads if last[name] == index),
            )
            for index, (nodes, reads, feeds, made) in enumerate(found)
        ]

    def _behind(self, value: str, stored: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that `value` needs, in order, and the names at which the walk back ended."""
        nodes: dict[int, onnx.NodeProto] = {}
        leaves: set[str] = set()
        waiting = [value]
        while waiting:
            name = waiting.pop()
            maker = self._makers.get(name)
            if name in stored or maker is None:
                leaves.add(name)
            elif self._places[id(maker)] not in nodes:
                nodes[self._places[id(maker)]] = maker
                waiting.extend(_reads(maker))
        return [nodes[place] for place in sorted(nodes)], leaves

    def _is_quantizing(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "QuantizeLinear" and node.input[0] not in self._initializers

    def _part(self, cut: _Cut) -> onnx.ModelProto:
        part = onnx.ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        part.graph.name = "slice"
        part.graph.node.extend(cut.nodes)
        needed = {name for node in cut.nodes for name in _reads(node)}
        part.graph.initializer.extend(
            item for name, item in self._initializers.items() if name in needed
        )
        for name in cut.feeds:
            part.graph.input.append(self._inputs[name])
        for name in cut.reads:
            array = self._stored[name][0]
            part.graph.input.append(
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
            )
        return part


@dataclass(frozen=True, slots=True)
class _Cut:
    """A slice: its nodes, what it reads (stored codes, inputs), what it stores, what ends here."""

    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    feeds: tuple[str, ...]
    stores: tuple[str, ...]
    drops: tuple[str, ...]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, its bodies included (their own names do no harm)."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)


_OUTPUTS = 3


def _measure(model: onnx.ModelProto, target: Target) -> None:
    """Add outputs: the mean of each channel, the share that is not cut, the number of elements."""
    graph, name = model.graph, f"{target.value}/onnxopt"
    shape, axes = (
        ([-1, target.channels], [0]) if target.last else ([0, target.channels, -1], [0, 2])
    )
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    add = _Adder(graph, name)
    flat = add("Reshape", target.value, add.constant(shape, np.int64))
    low, high = (add.constant(bound, np.float32) for bound in (target.low, target.high))
    kept = flat
    if math.isfinite(target.low) or math.isfinite(target.high):
        kept = add("Clip", flat, low, high)
    # Where the cut has changed nothing the number was inside, or at the very end: that is as good.
    inside = add("Cast", add("Equal", kept, flat), to=onnx.TensorProto.FLOAT)
    for value in (kept, inside):
        if opset < 18:
            mean = add("ReduceMean", value, axes=axes, keepdims=0)
        else:
            mean = add("ReduceMean", value, add.constant(axes, np.int64), keepdims=0)
        graph.output.append(onnx.ValueInfoProto(name=mean))
    graph.output.append(onnx.ValueInfoProto(name=add("Size", target.value)))


class _Adder:
    """Adds nodes and constants of made-up names to a graph and gives the names back."""

    def __init__(self, graph: onnx.GraphProto, stem: str) -> None:
        self._graph = graph
        self._stem = stem
        self._count = 0

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        self._graph.node.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def constant(self, numbers: Any, dtype: Any) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.array(numbers, dtype), name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{self._stem}/{self._count}"


def _weighted(runs: Sequence[Sequence[Array]]) -> Means:
    """One mean of the means of feeds of different sizes."""
    sizes = np.array([float(run[2]) for run in runs])
    shares = sizes / sizes.sum()
    mean, inside = (
        np.asarray(shares @ np.stack([run[part].astype(np.float64) for run in runs]))
        for part in (0, 1)
    )
    return Means(mean, inside)
