"""Decides which nodes to fold: what is constant, what it would cost, and what is too much.

The plan is made from sizes alone, before anything is computed. Nodes that can be computed now form
groups; a group is folded as a whole if it does not add more to the file than the budget allows,
and otherwise loses its largest result and is looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.base import Refusal
from onnxopt.passes.fold_place import Placer
from onnxopt.passes.propagate import Facts

MOST_BYTES = 256 << 20
"""The most memory that one group's tensors may take together."""

MOST_WORK = 1 << 31
"""The most multiplications that one group may take: about a second."""

_FREE_BYTES = 64
_NODE_BYTES = 40
_TENSOR_BYTES = 16
_SHARED_BYTES = 1024

_VIEWS = ops.SHAPE_MOVING - {"Expand"}

_NO_TENSOR = "a result is not a tensor of numbers"

_GROWING = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "GatherElements",
        "Loop",
        "OneHot",
        "Pad",
        "Range",
        "Resize",
        "Scan",
        "Tile",
        "Upsample",
    }
)
"""Operators whose output may be any number of times as large as their inputs."""

_FOLDED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that are folded together, in the order they run, and the values that remain of them."""

    nodes: tuple[ir.Node, ...]
    results: tuple[ir.Value, ...]
    growth: int
    """How many bytes the file gains."""
    memory: int
    """How many bytes all tensors take together while the group is computed."""
    work: int
    """About how many multiplications it takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fold, and what not and why."""

    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]


@dataclass(slots=True)
class Budget:
    """How many bytes folding may still add."""

    left: int

    def allows(self, growth: int) -> bool:
        return growth <= 0 or growth <= self.left

    def spend(self, growth: int) -> None:
        self.left -= max(growth, 0)


@dataclass(slots=True)
class Constants:
    """The values that are known before the model runs.

    `freed` are initializers that count as constants although a caller may override them.
    """

    facts: Facts
    freed: frozenset[ir.Value] = frozenset()
    computed: set[ir.Value] = field(default_factory=set)

    def has(self, value: ir.Value | None) -> bool:
        return (
            value is None or value in self.computed or value in self.freed or ops.is_constant(value)
        )


def foldable(
    nodes: Iterable[ir.Node], constants: Constants, refused: Collection[ir.Node] = ()
) -> list[ir.Node]:
    """The nodes that can be computed now, in order; `constants.computed` gains their outputs."""
    found: list[ir.Node] = []
    for node in nodes:
        if node in refused or (node.op_type == "Constant" and ops.is_standard(node)):
            continue
        if _is_known(node, constants.facts) or _is_computable(node, constants):
            found.append(node)
            constants.computed.update(node.outputs)
    return found


def in_order(scope: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """All nodes of a graph or function, those of bodies before the node that holds them."""
    for node in scope:
        for body in ops.subgraphs(node):
            yield from in_order(body)
        yield node


def make_plan(
    scope: ir.Graph | ir.Function,
    facts: Facts,
    budget: Budget,
    placer: Placer,
    refused: Collection[ir.Node] = (),
) -> Plan:
    """What to fold within the budget, which is spent by that; `refused` nodes are left alone."""
    groups: list[Group] = []
    refusals: list[Refusal] = []
    given_up = set(refused)
    members = foldable(in_order(scope), Constants(facts), given_up)
    waiting = sorted(_groups(_needed(members, facts), facts), key=lambda group: group.growth)
    while waiting:
        group = waiting.pop(0)
        reason = _too_much(group, facts, budget, placer)
        if not reason:
            budget.spend(group.growth)
            groups.append(group)
            continue
        culprit = _largest(group, facts, placer)
        given_up.add(culprit)
        if reason != _NO_TENSOR:
            refusals.append(Refusal("fold", label(culprit), reason))
        rest = [node for node in group.nodes if node not in given_up]
        if rest:
            kept = foldable(rest, Constants(facts), given_up)
            split = _groups(_needed(kept, facts), facts)
            waiting = sorted([*split, *waiting], key=lambda each: each.growth)
    return Plan(tuple(groups), tuple(refusals))


def _needed(members: Sequence[ir.Node], facts: Facts) -> list[ir.Node]:
    """Those of the nodes that something has to be computed of.

    The size of a tensor may be known where its elements are not; then nobody needs the tensor.
    """
    inside = set(members)
    read: set[ir.Value | None] = set()
    needed: list[ir.Node] = []
    for node in reversed(members):
        known = _is_known(node, facts)
        if known or any(value in read or _is_result(value, inside) for value in node.outputs):
            needed.append(node)
            if not known:
                read.update(node.inputs)
    return needed[::-1]


def _is_result(value: ir.Value, inside: set[ir.Node]) -> bool:
    return value.is_graph_output() or any(user not in inside for user, _ in value.uses())


def bytes_of(value: ir.Value, facts: Facts) -> int | None:
    """The size of the tensor, or None if its shape or type is not known."""
    tensor = ops.constant(value)
    if tensor is not None:
        return tensor.nbytes
    known = facts.elements.get(value)
    if known is not None:
        return int(known.array.size) * 8
    dims = facts.dims_of(value)
    if dims is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    sizes = [dim for dim in dims if isinstance(dim, int)]
    if len(sizes) != len(dims):
        return None
    return math.ceil(math.prod(sizes) * value.dtype.itemsize)


def human(size: int) -> str:
    """A number of bytes for people: "1.5 MB"."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"


def _is_known(node: ir.Node, facts: Facts) -> bool:
    """Whether every output that is read has been found out, element by element."""
    outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    found = [facts.elements.get(value) for value in outputs]
    return bool(found) and all(each is not None and each.numbers() is not None for each in found)


def _is_computable(node: ir.Node, constants: Constants) -> bool:
    if node.domain not in _FOLDED_DOMAINS or node.op_type in ops.QUANTIZING:
        return False
    if not all(constants.has(value) for value in node.inputs):
        return False
    if not ops.is_pure(node) or node.op_type in ops.CONTROL_FLOW:
        return False
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    return not _may_be_huge(node, constants.facts) and not _may_trap(node)


def _may_trap(node: ir.Node) -> bool:
    """Whether an integer division could stop the process, as it does in onnxruntime."""
    if node.op_type not in ("Div", "Mod") or len(node.inputs) != 2:
        return False
    dividend, divisor = map(ops.constant, node.inputs)
    dtype = node.inputs[1].dtype if divisor is None and node.inputs[1] else None
    if divisor is None:
        # Once it has been computed there will be another look.
        return dtype is None or dtype.is_integer()
    if not divisor.dtype.is_integer():
        return False
    below = divisor.numpy()
    if not np.all(below):
        return True
    if not divisor.dtype.is_signed() or not np.any(below == -1):
        return False
    return dividend is None or bool(np.any(dividend.numpy() == np.iinfo(below.dtype).min))


def _may_be_huge(node: ir.Node, facts: Facts) -> bool:
    if node.op_type not in _GROWING:
        return False
    return any(bytes_of(value, facts) is None for value in node.outputs)


def _work(node: ir.Node, facts: Facts) -> int:
    """About how many multiplications the node takes."""
    sizes = [_count(value, facts) for value in (*node.inputs, *node.outputs[:1])]
    if node.op_type in ("MatMul", "Gemm"):
        return math.isqrt(math.prod(max(size, 1) for size in sizes[:2]) * max(sizes[-1], 1))
    if node.op_type in ("Conv", "ConvTranspose", "Einsum", "GRU", "LSTM", "RNN"):
        return max(sizes[0], sizes[-1]) * max(sizes[1] if len(sizes) > 2 else 1, 1)
    return sum(sizes)


def _count(value: ir.Value | None, facts: Facts) -> int:
    dims = None if value is None else facts.dims_of(value)
    return math.prod(dim if isinstance(dim, int) else 1 for dim in dims or ())


def _groups(members: Sequence[ir.Node], facts: Facts) -> list[Group]:
    """The nodes in groups that share nothing but small constants, each in order."""
    inside = set(members)
    parent: dict[ir.Node, ir.Node] = {node: node for node in members}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_reader: dict[ir.Value, ir.Node] = {}
    for node in members:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer in inside and producer is not None:
                parent[root(node)] = root(producer)
            elif value is not None and _is_large(value):
                parent[root(node)] = root(first_reader.setdefault(value, node))
    gathered: dict[ir.Node, list[ir.Node]] = {}
    for node in members:
        gathered.setdefault(root(node), []).append(node)
    return [_group(nodes, inside, facts) for nodes in gathered.values()]


def _group(nodes: list[ir.Node], inside: set[ir.Node], facts: Facts) -> Group:
    results = tuple(value for node in nodes for value in node.outputs if _is_result(value, inside))
    read = {value: None for node in nodes for value in node.inputs if value is not None}
    freed = 0
    for value in read:
        if _dies(value, inside):
            freed += (bytes_of(value, facts) or 0) + _TENSOR_BYTES + len(value.name or "")
    gained = 0
    for value in results:
        size = bytes_of(value, facts) or 0
        gained += size + _TENSOR_BYTES + len(value.name or "") if size > _FREE_BYTES else 0
    growth = gained - freed - _NODE_BYTES * len(nodes)
    computed = [node for node in nodes if not _is_known(node, facts)]
    work = sum(_work(node, facts) for node in computed)
    return Group(tuple(nodes), results, growth, _memory(computed, facts), work)


def _is_large(value: ir.Value) -> bool:
    tensor = ops.constant(value)
    return tensor is not None and tensor.nbytes > _SHARED_BYTES


def _dies(value: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether a constant has no reader left once the nodes are gone."""
    if value.producer() in inside or not ops.is_constant(value):
        return False
    if value.is_graph_output():
        return False
    return all(user in inside for user, _ in value.uses())


def _too_much(group: Group, facts: Facts, budget: Budget, placer: Placer) -> str:
    """Why the group may not be folded; empty if it may."""
    if not all(_is_plain(value, facts, placer) for value in group.results):
        return _NO_TENSOR
    if not budget.allows(group.growth):
        return (
            f"the constant would add {human(group.growth)} to the file, more than the"
            f" {human(max(budget.left, 0))} that are left; --max-growth sets how much may be added"
        )
    if group.memory > MOST_BYTES:
        return f"computing it would take {human(group.memory)} of memory"
    return "computing it would take too long" if group.work > MOST_WORK else ""


def _is_plain(value: ir.Value, facts: Facts, placer: Placer) -> bool:
    """Whether the value is, as far as is known, a tensor that a constant can hold."""
    known = facts.elements.get(value)
    dtype = value.dtype if known is None else known.dtype
    if known is None and not isinstance(value.type, ir.TensorType | None):
        return False
    if dtype is None:
        return True
    return (
        dtype != ir.DataType.STRING
        and value.graph is not None
        and placer.has_room(value.graph, dtype)
    )


def _memory(nodes: Sequence[ir.Node], facts: Facts) -> int:
    # A tensor in another shape or order is a view, or is only made when it is written.
    copying = [node for node in nodes if node.op_type not in _VIEWS]
    values = {value: None for node in copying for value in (*node.inputs, *node.outputs)}
    return sum(bytes_of(value, facts) or 0 for value in values if value is not None)


def _largest(group: Group, facts: Facts, placer: Placer) -> ir.Node:
    """The node that is the reason that the group is too much."""
    strange = [value for value in group.results if not _is_plain(value, facts, placer)]
    heavy = group.memory > MOST_BYTES or group.work > MOST_WORK
    among = [value for node in group.nodes for value in node.outputs] if heavy else group.results
    values = strange or among
    producer = max(values, key=lambda each: bytes_of(each, facts) or 0).producer()
    return producer or group.nodes[-1]


def label(node: ir.Node) -> str:
    """The name of the node, or what else tells a user which one is meant."""
    return node.name or node.outputs[0].name or node.op_type
