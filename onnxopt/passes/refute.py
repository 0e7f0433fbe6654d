"""Finds Ifs that can take only one branch, because a later node could not run after the other.

Exporters wrap a Squeeze into an If that asks whether the dim is one. Where a recurrent layer or a
convolution needs the rank that only one branch gives, every run that gets to the end takes that
branch.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import Facts, Place
from onnxopt.passes.propagate_walk import walk_nodes

MOST_TRIALS = 64
"""Ifs that are tried out in one graph; each costs a walk over the nodes behind it."""

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose"})


def forced_branches(graph: ir.Graph | ir.Function, facts: Facts, opset: int) -> dict[ir.Node, str]:
    """The Ifs of one graph that can take only one branch, with the name of that attribute."""
    nodes = list(graph)
    forced: dict[ir.Node, str] = {}
    trials = 0
    for index, node in enumerate(nodes):
        if not _is_worth_a_trial(node, facts) or trials >= MOST_TRIALS:
            continue
        trials += 1
        dead = [name for name in _BRANCHES if _fails(node, name, nodes[index + 1 :], facts, opset)]
        if len(dead) == 1:
            forced[node] = _BRANCHES[1 - _BRANCHES.index(dead[0])]
    return forced


_BRANCHES = ("then_branch", "else_branch")


def _is_worth_a_trial(node: ir.Node, facts: Facts) -> bool:
    """Whether the node is an If that gives out tensors of different ranks."""
    if not ops.is_standard(node, "If") or len(ops.subgraphs(node)) != 2:
        return False
    then, other = (graph.outputs for graph in ops.subgraphs(node))
    pairs = [(facts.dims_of(a), facts.dims_of(b)) for a, b in zip(then, other, strict=False)]
    return any(a is not None and b is not None and len(a) != len(b) for a, b in pairs)


def _fails(node: ir.Node, branch: str, following: list[ir.Node], facts: Facts, opset: int) -> bool:
    """Whether a node behind the If can't run on what this branch gives."""
    trial = facts.copy()
    for value, given in zip(node.outputs, node.attributes[branch].as_graph().outputs, strict=False):
        dims = facts.dims_of(given)
        if dims is not None:
            trial.dims[value] = dims
    for each in following:
        if _cannot_run(Place(each, trial, opset)):
            return True
        walk_nodes([each], trial, opset)
    return False


def _cannot_run(place: Place) -> bool:
    """Whether onnxruntime is sure to refuse the ranks of the inputs."""
    node = place.node
    if not ops.is_standard(node):
        return False
    first = place.dims(0)
    if first is None:
        return False
    if node.op_type in _RECURRENT:
        return len(first) != 3
    weight = place.dims(1)
    if node.op_type in _CONVOLUTIONS:
        return weight is not None and len(first) != len(weight)
    return node.op_type == "Gemm" and len(first) != 2
