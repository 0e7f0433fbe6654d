"""Puts constants in the place of computed values, and takes away what nothing reads any more."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.propagate import scopes
from onnxopt.rewrite.names import Names

STANDALONE_INITIALIZERS = 4
"""The IR version from which an initializer need not be listed as a graph input."""


class Placer:
    """Makes constants in one model, each where the format has room for it."""

    def __init__(self, model: ir.Model) -> None:
        self._only_nodes = (model.ir_version or 0) < STANDALONE_INITIALIZERS
        self._functions = {id(function.graph): function for function in model.functions.values()}
        self._model = model
        self._names: Names | None = None

    def has_room(self, graph: ir.Graph, dtype: ir.DataType) -> bool:
        """Whether a constant of `dtype` can stand in the graph at all."""
        return not self._as_node(graph) or dtype in _constant_dtypes(self._opset(graph))

    def replace(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        """Let `value` be `tensor`, under its own name and with its metadata; gives the new value.

        It becomes an initializer of the graph that computed it, or a Constant node where the
        format has no room for one (functions, IR versions below 4).
        """
        producer, graph = value.producer(), value.graph
        if producer is None or graph is None:
            raise ValueError(f"{value.name} is not computed by a node")
        constant = self._make(tensor, producer)
        constant.doc_string = value.doc_string
        constant.metadata_props.update(value.metadata_props)
        constant.meta.update(value.meta)
        value.replace_all_uses_with(constant, replace_graph_outputs=True)
        name, value.name = value.name, None
        self._register(constant, name or "", graph)
        return constant

    def integers(self, numbers: Sequence[int], node: ir.Node, like: str) -> ir.Value:
        """A new constant vector of int64 that `node` can read, named after the value `like`."""
        if self._names is None:
            self._names = Names(list(self._graphs()))
        graph = node.graph
        if graph is None:
            raise ValueError(f"{node.name} belongs to no graph")
        constant = self._make(ir.Tensor(np.array(numbers, dtype=np.int64)), node)
        self._register(constant, self._names.value(like), graph)
        return constant

    def _graphs(self) -> Iterable[ir.Graph]:
        for scope in scopes(self._model):
            yield scope if isinstance(scope, ir.Graph) else scope.graph

    def _as_node(self, graph: ir.Graph) -> bool:
        return self._only_nodes or id(graph) in self._functions

    def _opset(self, graph: ir.Graph) -> int:
        function = self._functions.get(id(graph))
        return (function or self._model).opset_imports.get("", 0)

    def _make(self, tensor: ir.TensorProtocol, before: ir.Node) -> ir.Value:
        graph = before.graph
        if graph is not None and self._as_node(graph):
            attribute = ir.AttrTensor("value", tensor)
            node = ir.Node("", "Constant", [], [attribute], name=before.name)
            graph.insert_before(before, node)
            constant = node.outputs[0]
            constant.const_value = tensor
        else:
            constant = ir.Value(const_value=tensor)
        constant.type = ir.TensorType(tensor.dtype)
        constant.shape = ir.Shape(tensor.shape.numpy())
        return constant

    def _register(self, constant: ir.Value, name: str, graph: ir.Graph) -> None:
        constant.name = name
        if constant.producer() is None:
            graph.register_initializer(constant)


@functools.cache
def _constant_dtypes(opset: int) -> frozenset[ir.DataType]:
    """The dtypes that a Constant node may have in an opset of the standard domain."""
    if opset < 1:
        return frozenset()
    schema = onnx.defs.get_schema("Constant", opset, "")
    names = {text.removeprefix("tensor(").removesuffix(")") for text in schema.outputs[0].types}
    return frozenset(dtype for dtype in ir.DataType if dtype.name.lower() in names)


def sweep(nodes: Iterable[ir.Node]) -> int:
    """Remove those of the nodes that nothing reads, and what only they read; gives their number.

    Initializers that lose their last reader go too, unless a caller may override them or the graph
    gives them out. Constant nodes are not counted.
    """
    waiting = list(nodes)
    removed = 0
    while waiting:
        node = waiting.pop()
        graph = node.graph
        if graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        read = _detach(node)
        graph.remove(node, safe=True)
        removed += node.op_type != "Constant"
        for value in read:
            producer = value.producer()
            if producer is not None:
                waiting.append(producer)
            else:
                _drop_if_unread(value)
    return removed


def release(values: Iterable[ir.Value | None]) -> None:
    """Remove what gave the values, as far as nothing reads them any more."""
    for value in values:
        producer = None if value is None else value.producer()
        if producer is not None:
            sweep([producer])
        elif value is not None:
            _drop_if_unread(value)


def _detach(node: ir.Node) -> list[ir.Value]:
    """What the node and its bodies read; none of them reads it any more."""
    inner = [each for body in ops.subgraphs(node) for each in body.all_nodes()]
    read: list[ir.Value] = []
    for each in (node, *inner):
        for index, value in enumerate(each.inputs):
            if value is not None:
                read.append(value)
                each.replace_input_with(index, None)
    return read


def _drop_if_unread(value: ir.Value) -> None:
    graph = value.graph
    if graph is None or value.uses() or value.is_graph_output() or not ops.is_constant(value):
        return
    if value.is_graph_input():
        # It was only listed, as every initializer had to be below IR version 4.
        graph.inputs.remove(value)
    if value.is_initializer() and value.name is not None:
        del graph.initializers[value.name]
