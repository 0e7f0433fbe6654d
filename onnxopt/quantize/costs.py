"""What each node takes in floats and in integers here, and what the border between both takes.

Measured with onnxruntime's profiler on the float model and on the one with every node in integers
that the plan allows; or estimated from the amount of work, where time is to be left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.borders import ENOUGH, LAYOUT, Rate, border_rates
from onnxopt.quantize.observe import with_outputs
from onnxopt.quantize.plan import behind
from onnxopt.quantize.records import QuantPlan
from onnxopt.runtime.profile import NodeTime, node_times
from onnxopt.runtime.sessions import Session, optimized_graph

_MARK = re.compile(r"(?<![0-9A-Za-z])oxp(\d+)")
_CODES = ("QuantizeLinear", "DequantizeLinear")

CALL = 2e-6
"""What onnxruntime takes to call a kernel, in seconds: the least that its profiler ever shows."""
RATES = {"QuantizeLinear": 2.5e-10, "DequantizeLinear": 2e-10, "Transpose": 2e-10}
"""Seconds an element where none was seen at work."""
SECONDS_A_MAC = 3e-11
"""A float product at work, where nothing is measured; half of it in integers."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds a call: of each node in floats and in integers, and of the borders of each value.

    A node counts what the runtime merges with it. `quantize` and `dequantize` are what it takes
    to bring a value from the one side to the other, the change of layout included. `alone` is what
    a node takes in floats that costs nothing there only because the runtime merges it with the
    product before it, where that product is in integers.
    """

    floats: Mapping[str, float]
    integers: Mapping[str, float]
    quantize: Mapping[str, float]
    dequantize: Mapping[str, float]
    measured: bool = True
    alone: Mapping[str, float] = field(default_factory=dict)


def measured_costs(
    model: ir.Model,
    plan: QuantPlan,
    quantized: ir.Model,
    feeds: Sequence[Mapping[str, Any]],
    *,
    mixed: ir.Model | None = None,
    threads: int = 0,
) -> Costs:
    """Measure the models, in sessions that take turns.

    Args:
        model: The float model, each node with a name of its own.
        plan: What was carried out.
        quantized: What came of it.
        feeds: What to run them on; one or two are enough.
        mixed: The model with borders everywhere, of `mixed_names`, to measure borders in.
        threads: Threads inside an operator; 0 lets onnxruntime choose.

    Raises:
        RuntimeFailed: onnxruntime can't run one of them.
    """
    hosts = _hosts(model, plan)
    places = {node.name or "": place for place, node in enumerate(model.graph)}
    models = (model, quantized) if mixed is None else (model, quantized, mixed)
    marked = [_marked(each, places) for each in models]
    graphs = [optimized_graph(each) for each in marked]
    times = node_times(marked, feeds, threads=threads)
    names = list(places)
    found = [
        _Attribution(graph, timed).seconds() for graph, timed in zip(graphs, times, strict=True)
    ]
    floats, integers, *more = (
        _gathered({names[place]: seconds for place, seconds in each.items()}, hosts)
        for each in found
    )
    sizes = value_sizes(model, plan.grids, feeds[0], threads)
    rates = _rates([timed for each in times for timed in each])
    if not more:
        return Costs(floats, integers, *_borders(sizes, rates))
    rates |= border_rates(graphs[2].graph, times[2])
    merged = {node.name for node in model.graph if is_arithmetic(node)} - floats.keys()
    alone = {name: seconds for name, seconds in more[0].items() if name in merged}
    return Costs(floats, integers, *_borders(sizes, rates, _in_place(model)), alone=alone)


def mixed_names(model: ir.Model, plan: QuantPlan) -> frozenset[str]:
    """The nodes of a plan to leave in integers for a model with borders of all kinds.

    Two products are in integers and two in floats, in turns, and all that adds up is in floats.
    """
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    nodes = [node for node in model.graph if node.name in chosen]
    products = [node.name or "" for node in nodes if has_weight(node)]
    return frozenset(name for place, name in enumerate(products) if place % 4 < 2)


def is_arithmetic(node: ir.Node) -> bool:
    """Whether the runtime may merge the node with the product before it."""
    return ops.is_standard(node, "Add", "Sum")


def has_weight(node: ir.Node) -> bool:
    """Whether the node is a product with a constant."""
    return ops.is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul") and (
        ops.is_constant(node.inputs[1])
    )


def estimated_costs(
    model: ir.Model, plan: QuantPlan, feed: Mapping[str, Any], *, threads: int = 0
) -> Costs:
    """Costs from the amount of work, the same for the same model wherever it is computed.

    Borders cost nothing here: what they take beside the work depends on the machine.
    """
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    nodes = [node for node in model.graph if node.name in chosen]
    wanted = [node.outputs[0].name or "" for node in nodes]
    sizes = value_sizes(model, wanted, feed, threads)
    floats, integers = {}, {}
    for node in nodes:
        size, _ = sizes[node.outputs[0].name or ""]
        work = size * _depth(node)
        floats[node.name or ""] = CALL + work * SECONDS_A_MAC
        integers[node.name or ""] = CALL + work * SECONDS_A_MAC / 2
    return Costs(floats, integers, {}, {}, measured=False)


def value_sizes(
    model: ir.Model, names: Iterable[str], feed: Mapping[str, Any], threads: int = 0
) -> dict[str, tuple[int, int]]:
    """The number of elements and the rank of each value on a feed."""
    inputs = {value.name or "": value for value in model.graph.inputs}
    found = {
        name: (int(np.size(feed[name])), int(np.ndim(feed[name])))
        for name in names
        if name in inputs and name in feed
    }
    inner = [name for name in names if name not in inputs]
    if inner:
        session = Session.open(with_outputs(model, inner), optimize=False, threads=threads)
        values = session.run(feed, inner)
        found |= {n: (int(np.size(v)), int(np.ndim(v))) for n, v in zip(inner, values, strict=True)}
    return found


def _borders(
    sizes: Mapping[str, tuple[int, int]],
    rates: Mapping[str, Rate],
    in_place: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> tuple[dict[str, float], dict[str, float]]:
    both: list[dict[str, float]] = []
    for op_type in _CODES:
        rate, bare = rates[op_type], in_place.get(op_type, ())
        both.append({})
        for name, (elements, rank) in sizes.items():
            moves = rank == 4 and name not in bare
            both[-1][name] = CALL + (rate.whole if moves else rate.bare) * elements
    return both[0], both[1]


def _in_place(model: ir.Model) -> dict[str, set[str]]:
    """The values whose border needs no other layout: sums take the one that integers come in."""
    values = [value for node in model.graph for value in node.outputs]
    return {
        "QuantizeLinear": {v.name or "" for v in values if is_arithmetic(_maker(v))},
        "DequantizeLinear": {
            v.name or "" for v in values if all(is_arithmetic(each) for each in v.consumers())
        },
    }


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _rates(times: Iterable[NodeTime]) -> dict[str, Rate]:
    """The rates of borders, from what stands at some and what changes the layout anywhere."""
    seconds, elements = dict.fromkeys(RATES, 0.0), dict.fromkeys(RATES, 0)
    for timed in times:
        kind = "Transpose" if timed.op_type in LAYOUT else timed.op_type
        if kind in RATES and timed.elements:
            seconds[kind] += max(0.0, timed.seconds - CALL)
            elements[kind] += timed.elements
    found = {
        kind: seconds[kind] / elements[kind] if elements[kind] > ENOUGH else rate
        for kind, rate in RATES.items()
    }
    return {kind: Rate(found[kind], found[kind] + found["Transpose"]) for kind in _CODES}


def _hosts(model: ir.Model, plan: QuantPlan) -> dict[str, str]:
    """The chosen node that each node is merged with, by name; itself for a chosen one."""
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    found: dict[str, str] = {}
    for node in model.graph:
        if node.name in chosen:
            found[node.name or ""] = node.name or ""
            for merged in behind(node):
                found[merged.name or ""] = node.name or ""
    return found


def _gathered(seconds: Mapping[str, float], hosts: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, each in seconds.items():
        host = hosts.get(name, name)
        found[host] = found.get(host, 0.0) + each
    return found


def _marked(model: ir.Model, places: Mapping[str, int]) -> ir.Model:
    """A copy in which the nodes of `places`, and what they write, are named after their places."""
    copy = model.clone()
    for node in copy.graph:
        place = places.get(node.name or "")
        if place is None:
            continue
        node.name = f"oxp{place}"
        for index, value in enumerate(node.outputs):
            if value.name:
                value.name = f"oxp{place}/{index}"
    return copy


@dataclass(slots=True)
class _Attribution:
    """Which original node the time of each node of an optimized graph belongs to."""

    model: onnx.ModelProto
    times: Sequence[NodeTime]
    _readers: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def seconds(self) -> dict[int, float]:
        """By the place of the original node; borders belong to none."""
        nodes = {node.name: node for node in self.model.graph.node}
        for node in self.model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, node)
        found: dict[int, float] = {}
        for timed in self.times:
            node = nodes.get(timed.name)
            place = None if node is None else self._place(node)
            if place is not None:
                found[place] = found.get(place, 0.0) + timed.seconds
        return found

    def _place(self, node: onnx.NodeProto) -> int | None:
        if node.op_type in _CODES:
            return None
        marks = _MARK.findall(node.name)
        if not marks and node.op_type in LAYOUT:
            # A change of layout inside belongs to what asks for it; at a border to the border.
            reader = self._readers.get(node.output[0])
            if reader is None or reader.op_type in (*_CODES, *LAYOUT):
                return None
            return self._place(reader)
        if not marks:
            marks = [mark for name in node.output for mark in _MARK.findall(name)]
        return int(marks[0]) if marks else None


def _depth(node: ir.Node) -> float:
    """Multiplications for each number that the node writes; a small share of one where none."""
    if not ops.is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0.3
    weight = ops.constant(node.inputs[1])
    if weight is None:
        return 1.0
    shape = weight.shape.numpy()
    transposed = node.op_type == "Gemm" and node.attributes.get("transB") is not None
    outputs = shape[0] if node.op_type == "Conv" or transposed else shape[-1]
    return float(np.prod(shape)) / max(int(outputs), 1)
