"""What control flow gives out: what the branches of an If agree on, what a Loop never changes."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import Dims, Elements, Place
from onnxopt.passes.symbols import Names


def if_dims(place: Place) -> list[Dims | None]:
    """The dims of an If's outputs."""
    dims_of, names = place.facts.dims_of, place.facts.names
    return [_agreed(names, dims_of(one), dims_of(other)) for one, other in _results(place)]


def loop_dims(place: Place) -> list[Dims | None]:
    """The dims of what a Loop carries: those that its body keeps; nothing of what it gathers."""
    body = place.node.attributes["body"].as_graph()
    of = place.facts.dims_of
    pairs = zip(place.node.inputs[2:], body.inputs[2:], strict=True)
    return [_agreed(place.facts.names, of(first), of(value)) for first, value in pairs]


def if_elements(place: Place) -> list[Elements | None]:
    """The elements of an If's outputs."""
    of = place.facts.elements_of
    return [of(one) if _same(of(one), of(other)) else None for one, other in _results(place)]


def _results(place: Place) -> list[tuple[ir.Value, ir.Value]]:
    """For each output what either branch gives; twice the same where one branch is always taken."""
    branches = [graph.outputs for graph in ops.subgraphs(place.node)]
    taken = place.integers(0)
    if taken is not None and len(taken) == 1:
        name = "then_branch" if taken[0] else "else_branch"
        branches = [place.node.attributes[name].as_graph().outputs] * 2
    return list(zip(*branches, strict=True))


def _agreed(names: Names, left: Dims | None, right: Dims | None) -> Dims | None:
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple(
        one if one == other else names.fresh() for one, other in zip(left, right, strict=True)
    )


def _same(left: Elements | None, right: Elements | None) -> bool:
    if left is None or right is None or left.array.shape != right.array.shape:
        return False
    return list(left.array.flat) == list(right.array.flat)
