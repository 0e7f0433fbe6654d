"""The graphsurgeon classes a user's function works on, without the habits that damage a model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxopt.errors import BadInput
from onnxopt.passes.foreign_folding import (
    HIDDEN_SHAPE,
    drop_emptied_nodes,
    evaluates,
    exports,
    flatten,
    hidden_partial_shapes,
    is_pure,
    lower_constants,
    pure_functions,
)

# graphsurgeon gives these element types as the number in the schema, not as a numpy type.
_NUMBERED = frozenset(
    {
        ir.DataType.UNDEFINED,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)


def surgeon_dtype(dtype: ir.DataType) -> Any:
    """The element type as graphsurgeon shows it: a numpy dtype, or the number in the schema."""
    if dtype in _NUMBERED:
        return int(dtype)
    return np.dtype(object) if dtype == ir.DataType.STRING else dtype.numpy()


class StoredValues(LazyValues):  # type: ignore[misc]
    """Constant data that stays in the model's own tensor until somebody reads it.

    Args:
        origin: The tensor of the model; mapped external data is not touched here.
    """

    def __init__(self, origin: ir.TensorProtocol) -> None:
        self.origin = origin
        self.shape = list(origin.shape.numpy())
        self.dtype = surgeon_dtype(origin.dtype)
        self.nbytes = origin.nbytes
        self._proto: onnx.TensorProto | None = None

    @property
    def tensor(self) -> onnx.TensorProto:
        """The data as graphsurgeon's exporter takes it; copied on the first use."""
        if self._proto is None:
            self._proto = inline_proto(self.origin)
        return self._proto

    def load(self) -> np.ndarray:
        """A writable copy of the data."""
        if self.origin.dtype == ir.DataType.STRING:
            return np.array(onnx.numpy_helper.to_array(self.tensor))
        return np.array(self.origin.numpy())

    def __deepcopy__(self, memo: object) -> StoredValues:
        return self


def inline_proto(tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """The tensor as a proto that holds its own data."""
    if tensor.dtype == ir.DataType.STRING:
        return ir.to_proto(tensor)
    proto = onnx.TensorProto(name=tensor.name or "", data_type=int(tensor.dtype))
    proto.dims.extend(tensor.shape.numpy())
    proto.raw_data = tensor.tobytes()
    return proto


class OverridableVariable(gs.Variable):  # type: ignore[misc]
    """An initializer that is also a graph input: its data is only a default."""

    @property
    def values(self) -> np.ndarray:
        """Never there: a caller may feed something else.

        Raises:
            BadInput: Always.
        """
        raise BadInput(
            f"initializer {self.name!r} is also a graph input, so its values are only a default",
            hint="--freeze-inputs turns such initializers into constants",
        )


class SurgeonNode(gs.Node):  # type: ignore[misc]
    """A node that compares by identity before it compares everything it holds."""

    def __eq__(self, other: object) -> bool:
        # Taking a node off a tensor with thousands of readers compares it with each of them.
        if self is other:
            return True
        if not isinstance(other, gs.Node) or (self.name, self.op) != (other.name, other.op):
            return False
        return bool(super().__eq__(other))


class _Careful:
    """The methods of a graph or function that graphsurgeon gets wrong."""

    nodes: list[Any]
    outputs: list[Any]
    functions: list[Any]

    def cleanup(
        self,
        remove_unused_node_outputs: bool = False,
        recurse_subgraphs: bool = True,
        remove_unused_graph_inputs: bool = False,
        recurse_functions: bool | None = None,
    ) -> Any:
        """As in graphsurgeon, but an unused output keeps the place of those that follow it."""
        recurse = not isinstance(self, gs.Function)
        recurse = recurse if recurse_functions is None else recurse_functions
        super().cleanup(  # type: ignore[misc]
            remove_unused_node_outputs=False,
            recurse_subgraphs=recurse_subgraphs,
            remove_unused_graph_inputs=remove_unused_graph_inputs,
            recurse_functions=recurse,
        )
        if remove_unused_node_outputs:
            reached = [self, *(self.functions if recurse else ())]
            if recurse_subgraphs:
                reached += [inner for graph in list(reached) for inner in _all_subgraphs(graph)]
            for graph in reached:
                _omit_unused_outputs(graph)
        return self

    def toposort(
        self,
        recurse_subgraphs: bool = True,
        recurse_functions: bool | None = None,
        mode: str | None = None,
    ) -> Any:
        """As in graphsurgeon, but stable and without recursion over the nodes."""
        is_function = isinstance(self, gs.Function)
        mode = mode or ("nodes" if is_function else "full")
        recurse = not is_function if recurse_functions is None else recurse_functions
        if mode not in ("full", "nodes", "functions"):
            raise gs.OnnxGraphSurgeonException(f"mode {mode!r} is not full, nodes or functions")
        if mode != "functions":
            for graph in [self, *(self.functions if recurse else ())]:
                for inner in [graph, *(_all_subgraphs(graph) if recurse_subgraphs else ())]:
                    inner.nodes = _sorted(inner.nodes, _node_producers(inner.nodes))
        if mode != "nodes":
            self._merge_subgraph_functions()  # type: ignore[attr-defined]
            self.functions = _sorted(self.functions, _callees(self.functions))
        return self

    def fold_constants(
        self,
        fold_shapes: bool = True,
        recurse_subgraphs: bool = True,
        partitioning: str | None = None,
        error_ok: bool = True,
        flatten_subgraphs: bool = True,
        size_threshold: int | None = None,
        should_exclude_node: Callable[[Any], bool] | None = None,
        recurse_functions: bool | None = None,
    ) -> Any:
        """As in graphsurgeon, but random nodes, partial Shapes and float32 constants survive."""
        pure = pure_functions(self.functions)

        def keep(node: Any) -> bool:
            return (
                node.op == HIDDEN_SHAPE
                or not is_pure(node, pure)
                or not all(map(exports, node.inputs))
                or not all(map(evaluates, node.outputs))
                or bool(should_exclude_node and should_exclude_node(node))
            )

        options = {
            "fold_shapes": fold_shapes,
            "partitioning": partitioning,
            "error_ok": error_ok,
            "size_threshold": size_threshold,
        }
        deeper = {
            **options,
            "recurse_subgraphs": recurse_subgraphs,
            "flatten_subgraphs": flatten_subgraphs,
            "should_exclude_node": should_exclude_node,
            "recurse_functions": False,
        }
        self._fold_here(keep, options)
        for subgraph in self.subgraphs() if recurse_subgraphs else ():  # type: ignore[attr-defined]
            subgraph.fold_constants(**deeper)
        if flatten_subgraphs:
            flatten(self)
        is_function = isinstance(self, gs.Function)
        if not is_function if recurse_functions is None else recurse_functions:
            for function in reversed(self.functions):
                function.fold_constants(**deeper)
        return self

    def _fold_here(self, keep: Callable[[Any], bool], options: Mapping[str, Any]) -> None:
        """Fold what is in this graph itself."""
        sinks = [node for node in self.nodes if not node.outputs]
        lower_constants(self)
        drop_emptied_nodes(self, sinks)
        with hidden_partial_shapes(self.nodes):
            super().fold_constants(  # type: ignore[misc]
                **options,
                recurse_subgraphs=False,
                flatten_subgraphs=False,
                should_exclude_node=keep,
                recurse_functions=False,
            )
        drop_emptied_nodes(self, sinks)


class SurgeonGraph(_Careful, gs.Graph):  # type: ignore[misc]
    """The graph that a user's function gets."""


class SurgeonFunction(_Careful, gs.Function):  # type: ignore[misc]
    """A model-local function in the graph that a user's function gets."""

    overload = ""

    @property
    def unique_id(self) -> tuple[str, ...]:
        """What tells this function from the others."""
        return (self.domain, self.name, *((self.overload,) if self.overload else ()))


def _all_subgraphs(graph: Any) -> list[Any]:
    return list(graph.subgraphs(recursive=True))


def _omit_unused_outputs(graph: Any) -> None:
    kept = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        optional = _optional_outputs(node, graph.opset)
        for index, tensor in enumerate(list(node.outputs)):
            unused = not tensor.is_empty() and not tensor.outputs and tensor.name not in kept
            if unused and index in optional:
                node.outputs[index] = gs.Variable.empty()
        while node.outputs and node.outputs[-1].is_empty():
            node.outputs.pop()


def _optional_outputs(node: Any, opset: int) -> set[int]:
    if node.domain not in (None, "", "ai.onnx") or not onnx.defs.has(node.op):
        return set()
    try:
        outputs = onnx.defs.get_schema(node.op, opset, "").outputs
    except onnx.defs.SchemaError:
        return set()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {index for index, output in enumerate(outputs) if output.option == optional}


def _node_producers(nodes: Sequence[Any]) -> list[set[int]]:
    position = {id(node): index for index, node in enumerate(nodes)}
    before: list[set[int]] = []
    for index, node in enumerate(nodes):
        read = list(node.inputs)
        for subgraph in node.subgraphs():
            read += subgraph._foreign_tensors().values()
        makers = {position.get(id(maker), index) for tensor in read for maker in tensor.inputs}
        before.append(makers - {index})
    return before


def _callees(functions: Sequence[Any]) -> list[set[int]]:
    position = {(function.domain, function.name): i for i, function in enumerate(functions)}
    before = []
    for function in functions:
        nodes = [n for graph in [function, *_all_subgraphs(function)] for n in graph.nodes]
        called = {position.get((node.domain, node.op)) for node in nodes}
        before.append({index for index in called if index is not None})
    return before


def _sorted(items: Sequence[Any], before: Sequence[set[int]]) -> list[Any]:
    """The items with each one after those it needs, otherwise in the order they came."""
    waiting = [len(needed) for needed in before]
    after: dict[int, list[int]] = {}
    for index, needed in enumerate(before):
        for other in needed:
            after.setdefault(other, []).append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for follower in after.get(index, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    if len(order) < len(items):
        stuck = next(item for index, item in enumerate(items) if waiting[index])
        raise gs.OnnxGraphSurgeonException(f"the graph has a cycle through {stuck.name!r}")
    return [items[index] for index in order]


def is_graph(obj: object) -> bool:
    """Whether `obj` is a graphsurgeon graph, one of ours or a plain one."""
    return isinstance(obj, gs.Graph) and not isinstance(obj, gs.Function)
