"""Puts the nodes of a proto into an order in which every value is made before it is read."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx

from onnxopt.errors import BadModel


def sort_model(proto: onnx.ModelProto) -> None:
    """Sort the nodes of every graph and function in place; what is sorted already stays.

    Raises:
        BadModel: Nodes read each other's outputs in a circle.
    """
    for graph in (proto.graph, *proto.functions):
        _sort(graph)


def _sort(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    for node in graph.node:
        for body in _bodies(node):
            _sort(body)
    order = _order(graph.node)
    if order != sorted(order):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[index] for index in order)


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """The indices of the nodes, producers first, otherwise as they were."""
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    readers: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for source in {producers[name] for name in _reads(node) if name in producers}:
            readers[source].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(index for index, count in enumerate(missing) if count)
        raise BadModel(
            f"the graph has a cycle through node {describe(nodes[stuck])}",
            hint="a node may only read what nodes before it make; export the model again",
        )
    return order


def describe(node: onnx.NodeProto) -> str:
    """A node in a message: its name or first output, and its op."""
    name = node.name or next((name for name in node.output if name), "")
    return f"{name!r} ({node.op_type})"


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for body in _bodies(node):
        yield from _free_names(body)


def _free_names(graph: onnx.GraphProto) -> set[str]:
    made = {info.name for info in graph.input}
    made.update(tensor.name for tensor in graph.initializer)
    made.update(tensor.values.name for tensor in graph.sparse_initializer)
    made.update(name for node in graph.node for name in node.output)
    read = {name for node in graph.node for name in _reads(node)}
    read.update(info.name for info in graph.output)
    return read - made


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
