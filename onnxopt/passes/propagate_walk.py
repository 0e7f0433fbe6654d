"""The walk that carries dims and elements through a model, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import (
    MOST_ELEMENTS,
    Annotation,
    Dims,
    Facts,
    Place,
    Unknown,
    named_elements,
    roots,
)
from onnxopt.passes.propagate_contrib import CONTRIB_DIMS_RULES
from onnxopt.passes.propagate_dims import DIMS_RULES, ML_DIMS_RULES
from onnxopt.passes.propagate_elements import ELEMENTS_RULES

_MALFORMED = (
    Unknown,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_MOST_TRIALS = 3
_OTHER_DIMS_RULES = {"ai.onnx.ml": ML_DIMS_RULES, "com.microsoft": CONTRIB_DIMS_RULES}
_FIRST_CARRIED = 2
"""The inputs of a Loop and of its body begin with the number of the round and the condition."""


def propagate(model: ir.Model, annotated: Mapping[ir.Value, Annotation]) -> Facts:
    """Carry dims and elements through all graphs and functions of the model.

    Starts from graph inputs, constants and what another inference has found; writes nothing.
    """
    facts = Facts(annotated=annotated)
    for root in roots(model):
        opsets = root.opset_imports or model.opset_imports
        walk(root, facts, opsets.get("", 1))
    return facts


def walk(graph: ir.Graph | ir.Function, facts: Facts, opset: int) -> None:
    """Find out about all values of a graph and its bodies."""
    for value in graph.inputs:
        facts.merge(value, None)
    walk_nodes(graph, facts, opset)


def walk_nodes(nodes: Iterable[ir.Node], facts: Facts, opset: int) -> None:
    """Find out about the outputs of nodes, in order, and about their bodies."""
    for node in nodes:
        if ops.is_standard(node, "Loop") and "body" in node.attributes:
            _walk_loop(node, facts, opset)
        else:
            for body in ops.subgraphs(node):
                walk(body, facts, opset)
        _visit(node, facts, opset)


def _visit(node: ir.Node, facts: Facts, opset: int) -> None:
    """Find out about the outputs of one node whose inputs and bodies have been visited."""
    place = Place(node, facts, opset)
    standard = ops.is_standard(node)
    rules = DIMS_RULES if standard else _OTHER_DIMS_RULES.get(node.domain, {})
    shapes = _apply(rules.get(node.op_type), place)
    for index, value in enumerate(node.outputs):
        facts.merge(value, shapes[index] if index < len(shapes) else None)
    found = _apply(ELEMENTS_RULES.get(node.op_type) if standard else None, place)
    for index, value in enumerate(node.outputs):
        known = found[index] if index < len(found) else None
        if known is None:
            known = facts.elements_of(value) or named_elements(value, facts)
        if known is not None and known.array.size <= MOST_ELEMENTS:
            facts.elements[value] = known


def _apply(rule: Callable[[Place], list[Any]] | None, place: Place) -> list[Any]:
    if rule is None:
        return []
    try:
        return rule(place)
    except _MALFORMED:
        # A node that is not as its operator asks is the checker's business; nothing is known.
        return []


def _walk_loop(node: ir.Node, facts: Facts, opset: int) -> None:
    """Walk the body of a Loop with the dims that what it carries has in every round.

    They are found by induction: what holds for the initial values, and for the values after a round
    if it held before it, always holds.
    """
    body = node.attributes["body"].as_graph()
    for value in body.inputs:
        facts.merge(value, None)
    carried = body.inputs[_FIRST_CARRIED:]
    results = body.outputs[1 : 1 + len(carried)]
    guesses = [facts.dims_of(value) for value in node.inputs[_FIRST_CARRIED:]]
    fresh: set[Any] = set()
    for _ in range(_MOST_TRIALS):
        trial = facts.copy()
        trial.dims.update((v, dims) for v, dims in zip(carried, guesses, strict=False) if dims)
        walk_nodes(body, trial, opset)
        found = [trial.dims_of(value) for value in results]
        held = [_held(g, f, trial, fresh) for g, f in zip(guesses, found, strict=False)]
        if held == guesses:
            facts.dims, facts.elements = trial.dims, trial.elements
            return
        guesses = held
    walk_nodes(body, facts, opset)


def _held(guess: Dims | None, found: Dims | None, facts: Facts, fresh: set[Any]) -> Dims | None:
    """What is left of a guess about a carried value: new names for dims that did not hold."""
    if guess is None or found is None or len(guess) != len(found):
        return None
    held = []
    for before, after in zip(guess, found, strict=True):
        if before == after or before in fresh:
            held.append(before)
        else:
            held.append(facts.names.fresh())
            fresh.add(held[-1])
    return tuple(held)
