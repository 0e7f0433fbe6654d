"""New nodes and constants in a graph: named after old ones, typed, and in the right graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.rewrite.names import Names

Array = np.ndarray[Any, np.dtype[Any]]
MICROSOFT = "com.microsoft"


class Draft:
    """Adds to one model, in place."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        # Before version 4 an initializer had to be an input as well.
        model.ir_version = max(model.ir_version, 4)
        self._names = Names([model.graph, *model.graph.subgraphs()])

    def fresh(self, name: str) -> str:
        """A name for a value, made of this one, that none has."""
        return self._names.value(name)

    def constant(
        self, graph: ir.Graph, name: str, array: Any, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A new initializer of the graph, of the array's type unless another is given."""
        unique = self._names.value(name)
        tensor = ir.tensor(np.asarray(array), dtype=dtype, name=unique)
        value = ir.Value(
            name=unique,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(value)
        return value

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType]],
        attributes: Sequence[ir.Attr] = (),
        *,
        name: str = "",
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """The outputs of a new node in front of another; `outputs` are names and types.

        `name` is taken as it is: it may be that of a node that is about to go.
        """
        made = ir.Node(
            domain, op_type, list(inputs), list(attributes), num_outputs=len(outputs),
            name=name or self._names.node(f"{outputs[0][0]}_{op_type}"),
        )  # fmt: skip
        for value, (wanted, dtype) in zip(made.outputs, outputs, strict=True):
            value.name = self._names.value(wanted)
            value.type = ir.TensorType(dtype)
        graph_of(before).insert_before(before, made)
        if domain:
            self._model.opset_imports.setdefault(domain, 1)
        return made.outputs


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def home_of(value: ir.Value, reader: ir.Node) -> ir.Graph:
    """The graph that a constant is in, which a reader in a body may see from inside."""
    maker = value.producer()
    graph = value.graph if maker is None else maker.graph
    return graph if isinstance(graph, ir.Graph) else graph_of(reader)


def take_place(new: ir.Value, old: ir.Value) -> None:
    """Let all that reads `old` read `new`, which takes its name, shape and place as an output."""
    name = old.name
    for use in tuple(old.uses()):
        use.node.replace_input_with(use.idx, new)
    node = new.producer()
    graph = None if node is None else node.graph
    if isinstance(graph, ir.Graph):
        for slot, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[slot] = new
    old.name = None
    new.name, new.shape = name, old.shape
    new.type = old.type or new.type
    for key, item in old.meta.items():
        new.meta[key] = item


def drop_unread(model: ir.Model) -> None:
    """Take out the constants that nothing reads any more, in all graphs."""
    for graph in (model.graph, *model.graph.subgraphs()):
        kept = set(graph.outputs) | set(graph.inputs)
        for node in tuple(graph):
            if node.op_type == "Constant" and not any(
                value.uses() or value in kept for value in node.outputs
            ):
                graph.remove(node, safe=True)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and value not in kept:
                del graph.initializers[name]


def name_all(model: ir.Model) -> None:
    """Give each node, those in bodies too, a name of its own: plans and reports go by names."""
    known: set[str] = set()
    for place, node in enumerate(model.graph.all_nodes()):
        name = node.name or f"{node.op_type}_{place}"
        while name in known:
            name = f"{name}_{place}"
        known.add(name)
        node.name = name
