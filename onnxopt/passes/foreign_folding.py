"""What graphsurgeon's constant folding must be kept from, and what it leaves to be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir

from onnxopt import ops

HIDDEN_SHAPE = "Shape of some axes"
"""The operator that a Shape with `start` or `end` is called while graphsurgeon folds."""


def pure_functions(functions: Sequence[Any]) -> frozenset[tuple[str, str]]:
    """Domain and name of the local functions whose outputs depend on nothing but the inputs."""
    found: frozenset[tuple[str, str]] = frozenset()
    while True:
        now = frozenset(
            (function.domain, function.name)
            for function in functions
            if all(is_pure(node, found) for node in function.nodes)
        )
        if now == found:
            return found
        found = now


def is_pure(node: Any, functions: frozenset[tuple[str, str]]) -> bool:
    """Whether the outputs depend on nothing but the inputs; custom operators are not known to."""
    inner = [n for subgraph in node.subgraphs(recursive=True) for n in subgraph.nodes]
    return all(
        (n.domain, n.op) in functions
        or ((n.domain or "") in ops.PURE_DOMAINS and n.op not in ops.RANDOM and not _trains(n))
        for n in [node, *inner]
    )


def _trains(node: Any) -> bool:
    return node.op == "Dropout" and len(node.inputs) > 2 and not node.inputs[2].is_empty()


def exports(tensor: Any) -> bool:
    """Whether graphsurgeon's own exporter writes the constant as it is."""
    values = getattr(tensor, "_values", None)
    if not isinstance(values, np.ndarray):
        return True
    if values.dtype.kind in "OSU" or values.dtype.name.endswith("fnuz"):
        return False
    return ir.DataType.from_numpy(values.dtype).bitwidth >= 8


def evaluates(tensor: Any) -> bool:
    """Whether what onnxruntime computes for the tensor says its element type.

    Element types that numpy lacks come back as bytes.
    """
    dtype = getattr(tensor, "dtype", None)
    if dtype is None or isinstance(tensor, gs.Constant):
        return True
    return not isinstance(dtype, int) and ir.DataType.from_numpy(np.dtype(dtype)).bitwidth >= 8


def lower_constants(graph: Any) -> None:
    """Turn Constant nodes into constants, as graphsurgeon would, but at their element type."""
    for node in graph.nodes:
        values = _constant_values(node)
        if values is not None:
            node.outputs[0].to_constant(values)
            node.outputs.clear()


def _constant_values(node: Any) -> Any:
    if node.op != "Constant" or len(node.attrs) != 1 or len(node.outputs) != 1:
        return None
    ((name, value),) = node.attrs.items()
    if name == "value" and isinstance(value, gs.Constant):
        return value._values
    dtypes = {"value_float": np.float32, "value_int": np.int64}
    dtype = dtypes.get(name.removesuffix("s"))
    known = dtype is not None and not isinstance(value, gs.Node.AttributeRef)
    return np.array(value, dtype=dtype) if known else None


def flatten(graph: Any) -> None:
    """Put the branch that is taken in the place of each If with a constant condition."""
    nodes = []
    for index, node in enumerate(graph.nodes):
        if node.op != "If" or not isinstance(node.inputs[0], gs.Constant):
            nodes.append(node)
            continue
        taken = "then_branch" if np.asarray(node.inputs[0].values).any() else "else_branch"
        branch = node.attrs[taken]
        local = branch._local_tensors()
        for tensor in local.values():
            tensor.name += f"_subg_{index}_{branch.name}"
        nodes += branch.nodes
        results = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        for result, inner in zip(results, branch.outputs, strict=True):
            # What the branch only passes on has no producer there that could give it another name.
            nodes.append(gs.Node("Identity", inputs=[inner], outputs=[result]))
    graph.nodes = nodes


def drop_emptied_nodes(graph: Any, sinks: Sequence[Any]) -> None:
    """Remove the nodes that lost all their outputs; `sinks` never had any."""
    # onnxruntime refuses a Constant, or a function with one, that gives nothing.
    kept = {id(node) for node in sinks}
    graph.nodes = [node for node in graph.nodes if node.outputs or id(node) in kept]


@contextmanager
def hidden_partial_shapes(nodes: Sequence[Any]) -> Iterator[None]:
    """Call Shapes of some axes something else for a while."""
    # graphsurgeon replaces every Shape by the whole shape; it leaves operators it can't name.
    partial = [n for n in nodes if n.op == "Shape" and ("start" in n.attrs or "end" in n.attrs)]
    for node in partial:
        node.op = HIDDEN_SHAPE
    try:
        yield
    finally:
        for node in partial:
            node.op = "Shape"
