"""Lets one value stand for all that hold the same symbolic elements.

Exporters ask every tensor anew for the same batch size. Where the dims are proven equal the first
answer serves for all.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import Facts

Key = tuple[object, ...]


def merge_twins(scope: ir.Graph | ir.Function, facts: Facts) -> list[ir.Node]:
    """Read each symbolic value from the first place that has it; gives the nodes set free."""
    freed: list[ir.Node] = []
    seen: dict[Key, ir.Value] = {}
    for value in scope.inputs:
        key = _key(value, facts)
        if key is not None:
            seen.setdefault(key, value)
    _merge(scope, facts, seen, freed)
    return freed


def _merge(
    nodes: Iterable[ir.Node], facts: Facts, seen: dict[Key, ir.Value], freed: list[ir.Node]
) -> None:
    for node in nodes:
        for body in ops.subgraphs(node):
            # What a body finds is not seen outside of it.
            _merge(body, facts, dict(seen), freed)
        for value in node.outputs:
            key = _key(value, facts)
            if key is None:
                continue
            twin = seen.setdefault(key, value)
            if twin is not value and value.uses() and not value.is_graph_output():
                value.replace_all_uses_with(twin)
                freed.append(node)


def _key(value: ir.Value, facts: Facts) -> Key | None:
    """What two values must share to be twins; None where the elements are numbers or not known."""
    found = facts.elements_of(value)
    if found is None or found.known:
        return None
    return found.dtype, found.array.shape, tuple(found.array.flat)
