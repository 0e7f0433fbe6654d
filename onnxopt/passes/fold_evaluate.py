"""Computes the nodes of a plan: known integers and moves in numpy, the rest by onnxruntime.

Moving elements about (Transpose, Slice, Concat …) is done in numpy for every dtype, since no
arithmetic is involved; all else runs on onnxruntime's own kernels, so that folding can't differ
from running.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import RuntimeFailed
from onnxopt.passes.base import Refusal
from onnxopt.passes.fold_plan import MOST_BYTES, Group, label
from onnxopt.passes.propagate import Facts, Place, Unknown
from onnxopt.passes.propagate_dims import slices

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[ir.Value, ir.TensorProtocol]

_FEED_BYTES = 1 << 20
_LAZY_BYTES = 1 << 20


Move = Callable[[Place, list[Array]], "list[Array]"]


class Evaluation:
    """The tensors of folded values of one graph (bodies included) or function."""

    def __init__(self, facts: Facts, opsets: Mapping[str, int], ir_version: int) -> None:
        self._facts = facts
        self._opsets = opsets
        self._ir_version = max(ir_version, 4)
        self.tensors: Tensors = {}
        self.refusals: list[Refusal] = []
        self.failed: set[ir.Node] = set()
        self.by_runtime: set[ir.Value] = set()

    def run(self, groups: Iterable[Group]) -> None:
        """Compute the results of the groups into `tensors`; what can't be is in `failed`."""
        left: list[ir.Node] = []
        wanted: set[ir.Value] = set()
        held = 0
        for group in groups:
            rest = [node for node in group.nodes if not self._without_runtime(node)]
            if rest and held + group.memory > MOST_BYTES:
                self._by_runtime(left, wanted)
                left, held = [], 0
            left += rest
            held += group.memory if rest else 0
            wanted.update(group.results)
        self._by_runtime(left, wanted)

    def tensor(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        """The tensor that the value is known to hold."""
        if value is None:
            return None
        found = self.tensors.get(value)
        return ops.constant(value) if found is None else found

    def _without_runtime(self, node: ir.Node) -> bool:
        return self._by_elements(node) or self._by_moving(node)

    def _by_elements(self, node: ir.Node) -> bool:
        found: Tensors = {}
        for value in node.outputs:
            known = self._facts.elements.get(value)
            numbers = None if known is None else known.numbers()
            if known is not None and numbers is not None:
                found[value] = ir.Tensor(numbers, dtype=known.dtype)
            elif value.uses() or value.is_graph_output():
                return False
        self.tensors.update(found)
        return True

    def _by_moving(self, node: ir.Node) -> bool:
        move = MOVES.get(node.op_type) if ops.is_standard(node) else None
        given = [self.tensor(value) for value in node.inputs]
        tensors = [tensor for tensor in given if tensor is not None]
        if move is None or not tensors or len(tensors) != len(given):
            return False
        if any(tensor.dtype == ir.DataType.STRING for tensor in tensors):
            return False
        place = Place(node, self._facts, self._opsets.get("", 1))
        try:
            self.tensors.update(_moved(place, move, tensors))
        except (Unknown, ValueError, IndexError, TypeError):
            return False
        return True

    def _by_runtime(self, nodes: list[ir.Node], wanted: Set[ir.Value]) -> None:
        """Compute nodes in one session; where that fails, in halves, down to the guilty node."""
        nodes = self._ready(nodes)
        inside = set(nodes)
        outputs = [
            value
            for node in nodes
            for value in node.outputs
            if value in wanted or any(user not in inside for user, _ in value.uses())
        ]
        if not outputs:
            return
        try:
            self._session(nodes, outputs)
        except RuntimeFailed as failure:
            if len(nodes) == 1:
                self.failed.add(nodes[0])
                self.refusals.append(Refusal("fold", label(nodes[0]), failure.message))
                return
            middle = len(nodes) // 2
            self._by_runtime(nodes[:middle], wanted)
            self._by_runtime(nodes[middle:], wanted)

    def _ready(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """The nodes that have all their inputs, computed before or by another of them."""
        ready: dict[ir.Node, None] = {}
        for node in nodes:
            if all(
                value is None or value.producer() in ready or self.tensor(value) is not None
                for value in node.inputs
            ):
                ready[node] = None
        return list(ready)

    def _session(self, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
        # Imported here: most models fold without onnxruntime, and loading it takes a while.
        from onnxopt.runtime.sessions import evaluate

        region = _Region(self, nodes, outputs)
        arrays = evaluate(region.proto(self._opsets, self._ir_version), region.feeds)
        found: Tensors = {}
        for value in outputs:
            array = arrays[region.name(value)]
            if not isinstance(array, np.ndarray | np.generic) or array.dtype == object:
                raise RuntimeFailed("the result is not a tensor of numbers")
            found[value] = ir.Tensor(np.asarray(array))
        self.tensors.update(found)
        self.by_runtime.update(found)


class _Region:
    """Nodes as a model of their own. Values get new names: bodies may use one name twice."""

    def __init__(
        self, known: Evaluation, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]
    ) -> None:
        self._known = known
        self._nodes = nodes
        self._outputs = outputs
        self._names: dict[ir.Value, str] = {}
        self.feeds: dict[str, Array] = {}

    def name(self, value: ir.Value | None) -> str:
        if value is None or not value.name:
            return ""
        return self._names.setdefault(value, f"v{len(self._names)}")

    def proto(self, opsets: Mapping[str, int], ir_version: int) -> onnx.ModelProto:
        proto = onnx.ModelProto(ir_version=ir_version)
        for domain, version in opsets.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.graph.name = "folding"
        for node in self._nodes:
            self._add_node(proto.graph, node)
        for value in self._outputs:
            proto.graph.output.add(name=self.name(value))
        return proto

    def _add_node(self, graph: onnx.GraphProto, node: ir.Node) -> None:
        for value in node.inputs:
            if value is not None and value not in self._names:
                self._add_constant(graph, value)
        found = graph.node.add(op_type=node.op_type, domain=node.domain)
        found.input.extend(map(self.name, node.inputs))
        found.output.extend(map(self.name, node.outputs))
        for attribute in node.attributes.values():
            ir.serde.serialize_attribute_into(found.attribute.add(), attribute)

    def _add_constant(self, graph: onnx.GraphProto, value: ir.Value) -> None:
        tensor = self._known.tensor(value)
        if tensor is None:
            return
        name = self.name(value)
        if tensor.nbytes > _FEED_BYTES:
            # A mapped weight goes in as it is; as an initializer it would be copied twice.
            kind = graph.input.add(name=name).type.tensor_type
            kind.elem_type = int(tensor.dtype)
            for size in tensor.shape.numpy():
                kind.shape.dim.add(dim_value=size)
            self.feeds[name] = tensor.numpy()
        else:
            ir.serde.serialize_tensor_into(graph.initializer.add(), tensor)
            graph.initializer[-1].name = name


def _moved(place: Place, move: Move, tensors: Sequence[ir.TensorProtocol]) -> Tensors:
    """The outputs of a node that only moves elements."""
    node, dtype = place.node, tensors[0].dtype
    if node.op_type == "ConstantOfShape":
        fill = ops.tensor_of(node.attributes.get("value"))
        dtype = ir.DataType.FLOAT if fill is None else fill.dtype
    if node.op_type == "Transpose" and tensors[0].nbytes > _LAZY_BYTES:
        # A mapped weight is turned when it is written or read, so that no copy stays in memory.
        order = place.ints_attribute("perm") or list(range(len(tensors[0].shape)))[::-1]
        shape = ir.Shape([tensors[0].shape.numpy()[axis] for axis in order])
        turn = functools.partial(_turned, tensors[0], order)
        return {node.outputs[0]: ir.LazyTensor(turn, dtype=dtype, shape=shape)}
    arrays = move(place, [tensor.numpy() for tensor in tensors])
    return {
        value: ir.Tensor(_contiguous(array), dtype=dtype)
        for value, array in zip(node.outputs, arrays, strict=True)
    }


def _turned(tensor: ir.TensorProtocol, order: Sequence[int]) -> ir.TensorProtocol:
    return ir.Tensor(_contiguous(tensor.numpy().transpose(order)), dtype=tensor.dtype)


def _contiguous(array: Array) -> Array:
    return np.asarray(array, order="C")


def _in_new_shape(place: Place, arrays: list[Array]) -> list[Array]:
    dims = place.facts.dims_of(place.node.outputs[0])
    sizes = [dim for dim in dims or () if isinstance(dim, int)]
    if dims is None or len(sizes) != len(dims):
        raise Unknown("dims")
    return [arrays[0].reshape(sizes)]


def _transpose(place: Place, arrays: list[Array]) -> list[Array]:
    return [arrays[0].transpose(place.ints_attribute("perm"))]


def _concat(place: Place, arrays: list[Array]) -> list[Array]:
    return [np.concatenate(arrays, axis=place.int_attribute("axis", 0))]


def _slice(place: Place, arrays: list[Array]) -> list[Array]:
    window = [slice(None)] * arrays[0].ndim
    for axis, start, end, step in slices(place, arrays[0].ndim):
        if not isinstance(start, int) or not isinstance(end, int):
            raise Unknown("window")
        window[axis] = slice(start, end, step)
    return [arrays[0][tuple(window)]]


def _gather(place: Place, arrays: list[Array]) -> list[Array]:
    return [np.take(arrays[0], arrays[1], axis=place.int_attribute("axis", 0))]


def _expand(place: Place, arrays: list[Array]) -> list[Array]:
    return [np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(arrays[1])))]


def _split(place: Place, arrays: list[Array]) -> list[Array]:
    axis = place.int_attribute("axis", 0)
    sizes = [place.facts.dims_of(value) for value in place.node.outputs]
    lengths = [dims[axis] for dims in sizes if dims is not None]
    known = [length for length in lengths if isinstance(length, int)]
    if len(known) != len(sizes):
        raise Unknown("split")
    return np.split(arrays[0], np.cumsum(known)[:-1], axis=axis)


def _filled(place: Place, arrays: list[Array]) -> list[Array]:
    fill = ops.tensor_of(place.node.attributes.get("value"))
    value = np.float32(0) if fill is None else fill.numpy().reshape(-1)[0]
    return [np.full(tuple(arrays[0]), value)]


MOVES: dict[str, Move] = {
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _in_new_shape,
    "Gather": _gather,
    "Identity": lambda _, arrays: [arrays[0]],
    "Reshape": _in_new_shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _in_new_shape,
    "Transpose": _transpose,
    "Unsqueeze": _in_new_shape,
}
"""Operators that only move elements; they give bit for bit what every kernel must."""
