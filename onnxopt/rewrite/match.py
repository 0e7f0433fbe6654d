"""Finds a traced pattern at a node, with complete backtracking over commuted inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Unmatched
from onnxopt.rewrite.pattern import (
    Attr,
    Const,
    Either,
    Literal,
    NodePattern,
    OutputPattern,
    Pattern,
    Values,
    Variable,
)

Bindings = dict[Any, Any]
Goal = tuple[Any, Any]

_FAR = 200
"""How many nodes a search downstream may see before it gives up."""


class Match:
    """A found pattern: what each variable and each pattern node stands for."""

    __slots__ = ("bindings", "pattern", "root")

    def __init__(self, pattern: Pattern, root: ir.Node, bindings: Bindings) -> None:
        self.pattern = pattern
        self.root = root
        self.bindings = bindings

    def hit(self) -> Hit:
        """The view of this match that a rule's `rewrite` gets."""
        found = {name: _view(self.bindings.get(name)) for name in self.pattern.names}
        for node in self.pattern.nodes:
            if node.label is not None and node in self.bindings:
                found[node.label] = NodeView(self.bindings[node])
        return Hit(self.root, found)

    @property
    def nodes(self) -> list[ir.Node]:
        """The matched nodes, roots first."""
        return [self.bindings[node] for node in self.pattern.nodes if node in self.bindings]

    def stand_ins(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Values that vanish although something asks for their shape, each with who can answer."""
        matched = set(self.nodes)
        for value in _vanishing(self.pattern, self.bindings):
            if any(use.node not in matched for use in value.uses()):
                root = stand_in(self.pattern, self.bindings, value)
                if root is not None:
                    yield value, root

    @property
    def roots(self) -> list[ir.Value]:
        """The values that the rewrite replaces."""
        return [self.bindings[root.node].outputs[root.index] for root in self.pattern.roots]


def _view(item: Any) -> Any:
    if isinstance(item, ir.Value):
        return Operand(item)
    if isinstance(item, list):
        return [None if value is None else Operand(value) for value in item]
    return item


def find(pattern: Pattern, node: ir.Node) -> Match | None:
    """The first match whose first root is `node`, or None."""
    bindings = _node_matches(pattern.roots[0].node, node, {}, [])
    for root in pattern.roots[1:]:
        if bindings is None:
            return None
        bindings = _other_root(root, bindings)
    if bindings is None or not _private(pattern, bindings):
        return None
    return Match(pattern, node, bindings)


def _solve(goals: list[Goal], bindings: Bindings) -> Bindings | None:
    """Meet all goals (pattern item, graph value), or None."""
    while goals:
        item, value = goals[-1]
        goals = goals[:-1]
        if isinstance(item, OutputPattern):
            producer = None if value is None else value.producer()
            if producer is None or value.index() != item.index:
                return None
            return _node_matches(item.node, producer, bindings, goals)
        if isinstance(item, Either):
            solved = (_solve([*goals, (option, value)], bindings) for option in item.options)
            return next((found for found in solved if found is not None), None)
        extended = _leaf(item, value, bindings)
        if extended is None:
            return None
        bindings = extended
    return bindings


def _leaf(item: Any, value: ir.Value | None, bindings: Bindings) -> Bindings | None:
    if isinstance(item, Variable):
        if item.name in bindings:
            return bindings if bindings[item.name] is value else None
        if value is None:
            return {**bindings, item.name: None} if item.optional else None
        if item.kind is Const and not ops.is_constant(value):
            return None
        return {**bindings, item.name: value}
    if item is None:
        return bindings if value is None else None
    literal = item if isinstance(item, Literal) else Literal(float(item))
    return bindings if value is not None and _is_number(value, literal) else None


def _is_number(value: ir.Value, literal: Literal) -> bool:
    tensor = ops.constant(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return False
    number = float(np.asarray(tensor.numpy()).reshape(()).astype(np.float64))
    if literal.number == 0 or not math.isfinite(literal.number):
        return number == literal.number
    return abs(number - literal.number) <= literal.relative * abs(literal.number)


def _node_matches(
    item: NodePattern, node: ir.Node, bindings: Bindings, rest: list[Goal]
) -> Bindings | None:
    known = bindings.get(item)
    if known is not None:
        return _solve(rest, bindings) if known is node else None
    if node.op_type not in item.op_types or node.domain != item.domain:
        return None
    orders = _input_orders(item, node)
    if not orders or len(node.outputs) < item.outputs or node in bindings.values():
        return None
    extended = _attributes_match(item, node, {**bindings, item: node})
    if extended is None:
        return None
    for order in orders:
        solved = _solve(rest + order, extended)
        if solved is not None:
            return solved
    return None


def _input_orders(item: NodePattern, node: ir.Node) -> list[list[Goal]]:
    """The ways to lay the node's inputs onto the pattern's, as goals; the last goal goes first.

    Ways that the producers of the inputs rule out are left out, which ends most trials here.
    """
    wanted, given = item.inputs, node.inputs
    if wanted and isinstance(wanted[-1], Variable) and wanted[-1].kind is Values:
        return _with_rest(item, given)
    if len(given) > len(wanted):
        if any(value is not None for value in given[len(wanted) :]):
            return []
        given = given[: len(wanted)]
    orders = [_goals(wanted, given)] if _plausible(item, given) else []
    if len(wanted) == 2 and node.op_type in ops.COMMUTATIVE:
        turned = (given[1] if len(given) > 1 else None, given[0] if given else None)
        if _plausible(item, turned):
            orders.append(_goals(wanted, turned))
    return orders


def _plausible(item: NodePattern, given: Sequence[ir.Value | None]) -> bool:
    """Whether each input comes from an op that the pattern has in its place."""
    for index, allowed in item.producers:
        value = given[index] if index < len(given) else None
        if value is None:
            return False
        producer = value.producer()
        if ("" if producer is None else producer.op_type) not in allowed:
            return False
    return True


def _with_rest(item: NodePattern, given: Sequence[ir.Value | None]) -> list[list[Goal]]:
    fixed = len(item.inputs) - 1
    if len(given) < fixed or not _plausible(item, given):
        return []
    rest: Goal = (_Rest(item.inputs[-1].name), list(given[fixed:]))
    return [[rest, *_goals(item.inputs[:fixed], given[:fixed])]]


def _goals(wanted: Sequence[Any], given: Sequence[ir.Value | None]) -> list[Goal]:
    """Cheap goals are met first, so that a mismatch is found before a subtree is walked."""
    subtrees: list[Goal] = []
    leaves: list[Goal] = []
    for index, item in enumerate(wanted):
        goal = (item, given[index] if index < len(given) else None)
        (subtrees if isinstance(item, OutputPattern | Either) else leaves).append(goal)
    return subtrees + leaves


class _Rest(Variable):
    """All remaining inputs, bound as a list."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Values, True)


def _attributes_match(item: NodePattern, node: ir.Node, bindings: Bindings) -> Bindings | None:
    if not item.attributes:
        return bindings
    view = NodeView(node)
    for name, wanted in item.attributes.items():
        try:
            found = view.attr(name)
        except Unmatched:
            return None
        found = list(found) if isinstance(found, tuple) else found
        if isinstance(wanted, Variable) and wanted.kind is Attr:
            if wanted.name in bindings and bindings[wanted.name] != found:
                return None
            if found is None and not wanted.optional:
                return None
            bindings[wanted.name] = found
        elif found != (list(wanted) if isinstance(wanted, tuple) else wanted):
            return None
    return bindings


def _other_root(root: OutputPattern, bindings: Bindings) -> Bindings | None:
    """Find a further root among the readers of what is bound already."""
    if root.node in bindings:
        return bindings
    for item in list(bindings.values()):
        values = item.outputs if isinstance(item, ir.Node) else [item]
        for value in values:
            if not isinstance(value, ir.Value):
                continue
            for node in value.consumers():
                found = _node_matches(root.node, node, bindings, [])
                if found is not None:
                    return found
    return None


def _private(pattern: Pattern, bindings: Bindings) -> bool:
    """Whether nobody outside of the match reads what would vanish, all in one graph.

    Who asks for the shape only may ask a root that has the same.
    """
    matched = {bindings[item] for item in pattern.nodes if item in bindings}
    if len({id(node.graph) for node in matched}) != 1:
        return False
    return all(
        not value.is_graph_output() and _has_stand_in(pattern, bindings, value, matched)
        for value in _vanishing(pattern, bindings)
        if value.is_graph_output() or any(use.node not in matched for use in value.uses())
    )


def _vanishing(pattern: Pattern, bindings: Bindings) -> Iterator[ir.Value]:
    """The values inside the match that no root and no shared node gives."""
    roots = {(root.node, root.index) for root in pattern.roots}
    for item in pattern.nodes:
        if item in bindings and not item.is_shared:
            outputs = enumerate(bindings[item].outputs)
            yield from (value for index, value in outputs if (item, index) not in roots)


def _has_stand_in(
    pattern: Pattern, bindings: Bindings, value: ir.Value, matched: set[ir.Node]
) -> bool:
    """Whether all outside readers ask for the shape, and a root can answer them as well."""
    if stand_in(pattern, bindings, value) is None:
        return False
    outside = [use.node for use in value.uses() if use.node not in matched]
    return all(ops.is_standard(node, *ops.SHAPE_ONLY) for node in outside) and not any(
        _leads_to(node, matched) for node in outside
    )


def stand_in(pattern: Pattern, bindings: Bindings, value: ir.Value) -> ir.Value | None:
    """The root of the match that provably has the shape of the value, if there is one."""
    roots = [bindings[root.node].outputs[root.index] for root in pattern.roots]
    return next((root for root in roots if Operand(root).same_shape(Operand(value))), None)


def _leads_to(node: ir.Node, targets: set[ir.Node]) -> bool:
    """Whether one of `targets` reads what comes of the node; True where that is a long search."""
    seen, stack = {node}, [node]
    while stack and len(seen) < _FAR:
        new = {use.node for value in stack.pop().outputs for use in value.uses()} - seen
        if new & targets:
            return True
        seen |= new
        stack += new
    return bool(stack)
