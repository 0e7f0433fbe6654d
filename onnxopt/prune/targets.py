"""Shapes that a model computes: where each of their elements comes from, and how to change one.

Exporters make the target of a Reshape out of Shape, Gather and Concat. An element that is a
constant can be given another number, one that is the size of an axis follows by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.rewrite.hit import NodeView, Unmatched
from onnxopt.rewrite.names import Names

_MOST = 64
"""No shape has more elements."""


@dataclass(frozen=True, slots=True)
class Number:
    """An element that is a constant."""

    number: int


@dataclass(frozen=True, slots=True)
class Size:
    """An element that is the size of an axis of a value."""

    value: ir.Value
    axis: int


Element = Number | Size | None
"""Where an element comes from; None where that is not known."""

Elements = tuple[Element, ...]


class Sources:
    """The elements of the small integer tensors that a walk has met."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, Elements] = {}

    def of(self, value: ir.Value | None) -> Elements | None:
        """Where the elements of a value come from, None where nothing is known of any."""
        if value is None:
            return None
        tensor = ops.constant(value)
        if tensor is None:
            return self._found.get(value)
        if not tensor.dtype.is_integer() or tensor.size > _MOST or len(tensor.shape) > 1:
            return None
        return tuple(Number(int(item)) for item in tensor.numpy().reshape(-1))

    def follow(self, node: ir.Node) -> bool:
        """Take note of what a node makes of elements; whether it is one that passes them on."""
        pass_on = _PASSING.get(node.op_type) if node.domain in ops.STANDARD_DOMAINS else None
        if pass_on is None:
            return False
        try:
            made = pass_on(NodeView(node), self)
        except Unmatched:
            return False
        if made is not None:
            self._found[node.outputs[0]] = made
        return made is not None

    def sizes_in(self, value: ir.Value | None) -> list[Size]:
        """The axes whose sizes are among the elements of a value."""
        return [element for element in self.of(value) or () if isinstance(element, Size)]


class Maker:
    """Makes constants and nodes of one model, under names of their own."""

    def __init__(self, model: ir.Model) -> None:
        self.names = Names([model.graph, *model.graph.subgraphs()])
        self._main = model.graph
        # An initializer had to be an input then, and the inputs stay as they are.
        self._as_nodes = (model.ir_version or 4) < 4

    def constant(self, node: ir.Node, base: str, array: np.ndarray) -> ir.Value:
        """A new constant in the graph of a node, in front of it."""
        name = self.names.value(base)
        tensor = ir.tensor(array, name=name)
        if self._as_nodes or node.graph is not self._main:
            made = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
            made.name, value = self.names.node(name), made.outputs[0]
            value.name = name
            assert node.graph is not None
            node.graph.insert_before(node, made)
        else:
            value = ir.Value(name=name, const_value=tensor)
            self._main.register_initializer(value)
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        return value

    def replace(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        """Put a constant in the place of an input, under its name if nothing else reads that."""
        old = node.inputs[index]
        if old is not None and is_own(old):
            ops.store_constant(old, ir.tensor(array, name=old.name))
            return
        base = (node.outputs[0].name if old is None else old.name) or "sizes"
        node.replace_input_with(index, self.constant(node, f"{base}_pruned", array))
        drop_unused(old)

    def rewrite(self, node: ir.Node, index: int, numbers: Mapping[int, int]) -> None:
        """Put other numbers into the shape that an input of a node holds.

        Raises Unmatched where an element is not a constant.
        """
        value = node.inputs[index]
        assert value is not None
        tensor = ops.constant(value)
        if tensor is not None:
            self.replace(node, index, _with_numbers(tensor, numbers))
            return
        node.replace_input_with(index, self._rewritten(node, value, numbers))
        drop_unused(value)

    def _rewritten(self, node: ir.Node, value: ir.Value, numbers: Mapping[int, int]) -> ir.Value:
        tensor, producer = ops.constant(value), value.producer()
        if tensor is not None:
            return self.constant(node, f"{value.name}_pruned", _with_numbers(tensor, numbers))
        if producer is None or not ops.is_standard(producer, "Concat", *_PLAIN):
            raise Unmatched("a size is computed in a way that can't be changed")
        inputs, start = list(producer.inputs), 0
        parts = inputs if producer.op_type == "Concat" else inputs[:1]
        for at, part in enumerate(parts):
            assert part is not None
            count = _count(part) if len(parts) > 1 else max(numbers) + 1
            inner = {key - start: n for key, n in numbers.items() if start <= key < start + count}
            inputs[at] = self._rewritten(node, part, inner) if inner else part
            start += count
        return self._copied(node, producer, inputs)

    def _copied(
        self, before: ir.Node, node: ir.Node, inputs: Sequence[ir.Value | None]
    ) -> ir.Value:
        """The output of a copy of a node with other inputs."""
        attributes = list(node.attributes.values())
        copy = ir.Node(node.domain, node.op_type, inputs, attributes)
        copy.name = self.names.node(f"{node.name or node.op_type}_pruned")
        old, value = node.outputs[0], copy.outputs[0]
        value.name = self.names.value(f"{old.name}_pruned")
        value.type, value.shape = old.type, old.shape
        assert before.graph is not None
        before.graph.insert_before(before, copy)
        return value


def is_own(value: ir.Value) -> bool:
    """Whether a value is a constant with one reader, which may be written over."""
    return ops.is_constant(value) and len(value.uses()) == 1 and not value.is_graph_output()


def drop_unused(value: ir.Value | None) -> None:
    """Take away what only a rewritten shape was for."""
    if value is None or value.uses() or value.is_graph_output() or value.graph is None:
        return
    node = value.producer()
    if value.is_initializer() and not value.is_graph_input():
        assert isinstance(value.graph, ir.Graph)
        value.graph.initializers.pop(str(value.name))
    elif node is not None and node.graph is not None and len(node.outputs) == 1:
        inputs = list(node.inputs)
        node.graph.remove(node, safe=True)
        for each in inputs:
            drop_unused(each)


def _with_numbers(tensor: ir.TensorProtocol, numbers: Mapping[int, int]) -> np.ndarray:
    array: np.ndarray = tensor.numpy().copy()
    for at, number in numbers.items():
        array.reshape(-1)[at] = number
    return array


def _count(value: ir.Value) -> int:
    """The number of elements of a part of a shape."""
    tensor = ops.constant(value)
    shape = value.shape if tensor is None else tensor.shape
    size = 1
    for dim in shape if shape is not None else ("?",):
        if not isinstance(dim, int):
            raise Unmatched("a size is computed in a way that can't be changed")
        size *= dim
    return size


def _shape(node: NodeView, sources: Sources) -> Elements | None:
    value = node.node.inputs[0]
    if value is None or value.shape is None:
        return None
    axes = range(len(value.shape))[node.attr("start", 0) or 0 : node.attr("end")]
    return tuple(Size(value, axis) for axis in axes)


def _same(node: NodeView, sources: Sources) -> Elements | None:
    return sources.of(node.node.inputs[0])


def _gather(node: NodeView, sources: Sources) -> Elements | None:
    found, ids = sources.of(node.node.inputs[0]), sources.of(node.node.inputs[1])
    if found is None or ids is None:
        return None
    if not all(
        isinstance(each, Number) and -len(found) <= each.number < len(found) for each in ids
    ):
        return None
    return _sizes(found[each.number] for each in ids if isinstance(each, Number))


def _sizes(elements: Iterable[Element]) -> Elements:
    """The elements without numbers, which could not be rewritten behind a look-up."""
    return tuple(element if isinstance(element, Size) else None for element in elements)


def _slice(node: NodeView, sources: Sources) -> Elements | None:
    found = sources.of(node.node.inputs[0])
    bounds = [
        node.attr(name) if node.has(name) else _first_numbers(sources, node, index)
        for index, name in ((1, "starts"), (2, "ends"), (4, "steps"))
    ]
    if found is None or not bounds[0] or not bounds[1]:
        return None
    step = bounds[2][0] if bounds[2] else 1
    return _sizes(found[int(bounds[0][0]) : int(bounds[1][0]) : int(step)])


def _first_numbers(sources: Sources, node: NodeView, index: int) -> Sequence[int] | None:
    inputs = node.node.inputs
    found = sources.of(inputs[index]) if index < len(inputs) else None
    return None if found is None else [e.number for e in found if isinstance(e, Number)]


def _concat(node: NodeView, sources: Sources) -> Elements | None:
    made: list[Element] = []
    known = False
    for value in node.node.inputs:
        found = sources.of(value)
        known = known or found is not None
        if value is None or (value.shape is None and found is None):
            return None
        made.extend((None,) * _count(value) if found is None else found)
    return tuple(made) if known else None


_PLAIN = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")

_PASSING: Mapping[str, Callable[[NodeView, Sources], Elements | None]] = {
    "Concat": _concat,
    "Gather": _gather,
    "Shape": _shape,
    "Slice": _slice,
    **dict.fromkeys(_PLAIN, _same),
}
