"""Puts back, by name, what a foreign tool dropped on its way through a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import onnx_ir as ir

from onnxopt.passes.foreign_tensors import same_tensor

_Described = TypeVar("_Described", ir.Graph, ir.Node, ir.Value, ir.Function, ir.Model)


class NodeIndex:
    """Finds the node of a graph that a node of an edited graph still is."""

    def __init__(self, nodes: Iterable[ir.Node]) -> None:
        self._by_output: dict[str, ir.Node] = {}
        self._by_name: dict[str, ir.Node | None] = {}
        for node in nodes:
            for value in node.outputs:
                if value.name:
                    self._by_output[value.name] = node
            if node.name:
                self._by_name[node.name] = None if node.name in self._by_name else node

    def find(
        self, op_type: str, domain: str, name: str | None, outputs: Iterable[str | None]
    ) -> ir.Node | None:
        """The node with the same operator and an output, or else the name, of the one asked for."""
        made = (self._by_output.get(output) for output in outputs if output)
        for node in (*made, self._by_name.get(name or "")):
            if node is not None and (node.op_type, node.domain) == (op_type, domain):
                return node
        return None


def values_of(graph: ir.Graph | ir.Function) -> dict[str, ir.Value]:
    """The values that the graph itself defines, by name."""
    stored = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
    made = (value for node in graph for value in node.outputs)
    return {value.name: value for value in (*graph.inputs, *stored, *made) if value.name}


def restore(original: ir.Model, result: ir.Model) -> None:
    """Give `result` the docs, metadata and denotations of `original` that it lacks.

    Nodes are the same if they have the same operator and an output or the name in common, values
    if they have the same name in the same graph. What the result has of its own is kept.
    """
    _restore_model(original, result)
    for identifier, function in result.functions.items():
        before = original.functions.get(identifier)
        if before is not None:
            _describe(before, function)
            function.graph.meta.update(before.graph.meta)
            _restore_scope(before, function)
            _restore_attributes(before.attributes, function.attributes)
    _restore_graph(original.graph, result.graph)


def _restore_model(original: ir.Model, result: ir.Model) -> None:
    for name in ("producer_name", "producer_version", "domain", "model_version"):
        if not getattr(result, name):
            setattr(result, name, getattr(original, name))
    if not result.device_configurations:
        result.device_configurations = original.device_configurations
    _describe(original, result)


def _restore_graph(original: ir.Graph, result: ir.Graph) -> None:
    result.name = result.name or original.name
    _describe(original, result)
    # A reader keeps here what the IR has no place for; the original knows best.
    result.meta.update(original.meta)
    _restore_scope(original, result)


def _restore_scope(original: ir.Graph | ir.Function, result: ir.Graph | ir.Function) -> None:
    index, values = NodeIndex(original), values_of(original)
    now = values_of(result)
    for name, value in now.items():
        if name in values:
            _restore_value(values[name], value)
    for node in result:
        names = [value.name for value in node.outputs]
        origin = index.find(node.op_type, node.domain, node.name, names)
        if origin is not None:
            _restore_node(origin, node, now)


def _restore_value(original: ir.Value, result: ir.Value) -> None:
    _describe(original, result)
    if original.type is not None and result.type == original.type:
        result.type = original.type
    if original.shape is not None and result.shape == original.shape:
        result.shape = original.shape.copy()


def _restore_node(original: ir.Node, result: ir.Node, values: Mapping[str, ir.Value]) -> None:
    result.name = result.name or original.name
    result.overload = result.overload or original.overload
    _describe(original, result)
    _restore_attributes(original.attributes, result.attributes)
    if not result.device_configurations:
        result.device_configurations = tuple(_rebound(original.device_configurations, values))
    for name, attribute in result.attributes.items():
        if name in original.attributes:
            _restore_bodies(original.attributes[name], attribute)


def _restore_bodies(original: ir.Attr, result: ir.Attr) -> None:
    for before, body in zip(_bodies(original), _bodies(result), strict=False):
        _restore_graph(before, body)


def _bodies(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else ()


def _restore_attributes(original: Mapping[str, ir.Attr], result: Any) -> None:
    """Take the original attributes, with their docs and mapped tensors, where they say the same."""
    for name, attribute in list(result.items()):
        before = original.get(name)
        if before is not None and before is not attribute and _same_attribute(before, attribute):
            result[name] = before


def _same_attribute(left: ir.Attr, right: ir.Attr) -> bool:
    if (left.type, left.ref_attr_name) != (right.type, right.ref_attr_name):
        return False
    if left.is_ref():
        return True
    if left.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return False
    if left.type == ir.AttributeType.TENSOR:
        return same_tensor(left.value, right.value)
    if left.type == ir.AttributeType.TENSORS:
        same_length = len(left.value) == len(right.value)
        return same_length and all(map(same_tensor, left.value, right.value))
    return bool(left.value == right.value)


def _describe(original: _Described, result: _Described) -> None:
    if not result.doc_string:
        result.doc_string = original.doc_string
    for key, text in original.metadata_props.items():
        result.metadata_props.setdefault(key, text)
    for key, item in original.meta.items():
        result.meta.setdefault(key, item)


def _rebound(configurations: Iterable[Any], values: Mapping[str, ir.Value]) -> Iterator[Any]:
    """The device configurations with the shardings of values that are still there."""
    for configuration in configurations:
        specs = [
            dataclasses.replace(spec, value=values.get(spec.value.name, spec.value))
            for spec in configuration.sharding_specs
            if spec.value is not None
        ]
        yield dataclasses.replace(configuration, sharding_specs=tuple(specs))


def with_listed(
    inputs: Sequence[ir.Value], initializers: Iterable[ir.Value], original: ir.Graph
) -> list[ir.Value]:
    """`inputs` and those `initializers` that were inputs of `original`, in the places they had."""
    names = [value.name for value in original.inputs]
    order = {name: position for position, name in enumerate(names)}
    listed = [value for value in initializers if value.name in order]
    result = list(inputs)
    for value in sorted(listed, key=lambda value: order[value.name]):
        before = set(names[: order[value.name]])
        place = max((i + 1 for i, known in enumerate(result) if known.name in before), default=0)
        result.insert(place, value)
    return result
