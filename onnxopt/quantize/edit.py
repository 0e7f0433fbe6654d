"""Small edits of a graph with Q/DQ pairs: constants, quantized constants, recoding, taking away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.quantize.units import (
    Array,
    clip_bounds,
    coding_of,
    is_dequantize,
    is_quantize,
    named,
    readers,
)
from onnxopt.rewrite.names import Names

_NONNEGATIVE = frozenset(
    {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
)
_KEEPS_SIGN = frozenset(
    {
        "AveragePool",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "ReduceMax",
        "ReduceMean",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


class Editor:
    """Edits the Q/DQ nodes of one model in place; new names are derived from old ones."""

    def __init__(self, model: ir.Model) -> None:
        self._names = Names([model.graph, *model.graph.subgraphs()])

    def constant(self, graph: ir.Graph, name: str, array: Any) -> ir.Value:
        """A new initializer of the graph, of the array's type."""
        unique = self._names.value(name)
        tensor = ir.tensor(np.asarray(array), name=unique)
        value = ir.Value(
            name=unique,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(value)
        return value

    def quantized(
        self,
        before: ir.Node,
        name: str,
        codes: Array,
        scale: Any,
        zero_point: Any,
        axis: int | None = None,
    ) -> ir.Value:
        """A new constant behind a DQ, placed before a node: its numbers."""
        graph = graph_of(before)
        stored = self.constant(graph, f"{name}_codes", codes)
        scales = np.asarray(scale, np.float32)
        zeros = np.broadcast_to(np.asarray(zero_point, codes.dtype), scales.shape).copy()
        node = ir.Node(
            "",
            "DequantizeLinear",
            [
                stored,
                self.constant(graph, f"{name}_scale", scales),
                self.constant(graph, f"{name}_zero_point", zeros),
            ],
            [] if axis is None or not scales.ndim else [ir.AttrInt64("axis", axis)],
            name=self._names.node(f"{name}_dequantize"),
        )
        self._describe(node.outputs[0], f"{name}_dequantized", codes.shape)
        graph.insert_before(before, node)
        return node.outputs[0]

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Iterable[ir.Attr],
    ) -> ir.Node:
        """A new standard node of one output, placed before another; `result` names the output."""
        name = self._names.node(f"{before.name or before.op_type}_{op_type.lower()}")
        made = ir.Node("", op_type, inputs, list(attributes), name=name)
        graph_of(before).insert_before(before, made)
        return made

    def result(self, node: ir.Node, name: str, like: ir.Value | None) -> ir.Value:
        """The output of a new node, of the type and shape of `like`, or float."""
        value = node.outputs[0]
        value.name = self._names.value(name)
        value.type = ir.TensorType(ir.DataType.FLOAT) if like is None else like.type
        value.shape = None if like is None else like.shape
        return value

    def recode(self, quantize: ir.Node, scale: float, zero_point: int, dtype: Any) -> None:
        """Give a Q, and all DQ that read it, another scale and zero point (per tensor)."""
        graph = graph_of(quantize)
        base = quantize.outputs[0].name or "q"
        values = [
            self.constant(graph, f"{base}_scale", np.float32(scale)),
            self.constant(graph, f"{base}_zero_point", np.asarray(zero_point, dtype)),
        ]
        for node in (quantize, *readers(quantize.outputs[0])):
            node.resize_inputs(3)
            for i, value in enumerate(values):
                node.replace_input_with(i + 1, value)
            for name in ("axis", "block_size", "output_dtype"):
                node.attributes.pop(name, None)
        quantize.outputs[0].type = ir.TensorType(values[1].dtype or ir.DataType.UINT8)

    def zero_point(self, node: ir.Node, name: str, zero: Array) -> None:
        """Give one Q or DQ another zero point, and with it another type of codes."""
        node.resize_inputs(3)
        node.replace_input_with(2, self.constant(graph_of(node), name, zero))
        node.attributes.pop("output_dtype", None)

    def drop_pair(self, quantize: ir.Node) -> None:
        """Let what reads a Q through DQ read the number itself; a graph output keeps its name.

        A Q that starts at 0 may stand for a Relu or Clip that a tool took away: that comes back.
        """
        number = quantize.inputs[0]
        assert number is not None
        if cuts(quantize):
            number = self._cut(quantize, number)
        for dequantize in readers(quantize.outputs[0]):
            replace(dequantize.outputs[0], number)
            graph_of(dequantize).remove(dequantize, safe=True)
        graph_of(quantize).remove(quantize, safe=True)

    def _cut(self, quantize: ir.Node, number: ir.Value) -> ir.Value:
        """What the Q leaves of a number: between 0 and the upper end of its range."""
        graph = graph_of(quantize)
        name = quantize.outputs[0].name or "q"
        bounds = [
            self.constant(graph, f"{name}_{what}", np.float32(bound))
            for what, bound in zip(("min", "max"), coding_of(quantize).limits, strict=True)
        ]
        node = ir.Node("", "Clip", [number, *bounds], name=self._names.node(f"{name}_clip"))
        result = node.outputs[0]
        result.name = self._names.value(f"{name}_clipped")
        result.type, result.shape = number.type, number.shape
        graph.insert_before(quantize, node)
        return result

    def _describe(self, value: ir.Value, name: str, shape: tuple[int, ...]) -> None:
        value.name = self._names.value(name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(shape)


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all that reads `old` read `new`.

    Where `old` is a graph output, `new` must come from a node; it becomes the output and takes the
    name.
    """
    name = old.name
    for use in tuple(old.uses()):
        use.node.replace_input_with(use.idx, new)
    if not old.is_graph_output():
        return
    graph = old.graph
    assert graph is not None
    for i, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[i] = new
    old.name = f"{name}_before"
    new.name = name
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    for key, item in old.meta.items():
        new.meta[key] = item


def cuts(quantize: ir.Node) -> bool:
    """Whether a Q is a Relu or Clip at the same time: it starts at 0, and not all numbers do."""
    coding = coding_of(quantize)
    if not (coding.constant and coding.per_tensor) or coding.limits[0] < 0:
        return False
    return not _is_nonnegative(quantize.inputs[0])


def _is_nonnegative(value: ir.Value | None) -> bool:
    maker = None if value is None else value.producer()
    if maker is None:
        return False
    if is_dequantize(maker):
        coding = coding_of(maker)
        return coding.constant and coding.per_tensor and coding.limits[0] >= 0
    if maker.op_type == "Clip":
        return clip_bounds(maker)[0] >= 0
    if maker.op_type in _KEEPS_SIGN:
        return all(_is_nonnegative(each) for each in named(maker.inputs[:1]))
    if maker.op_type == "Concat":
        return all(_is_nonnegative(each) for each in named(maker.inputs))
    return maker.op_type in _NONNEGATIVE


def can_drop(quantize: ir.Node) -> bool:
    """Whether a Q and its DQs can go: only DQs read it, and graph outputs keep a value of a node
    that is none itself."""
    number, codes = quantize.inputs[0], quantize.outputs[0]
    if number is None or not only_dequantized(quantize):
        return False
    results = [named(each.outputs)[0] for each in readers(codes)]
    leaving = [value for value in results if value.is_graph_output()]
    if not leaving:
        return True
    inside = number.producer() is not None and graph_of(quantize) is leaving[0].graph
    return inside and len(leaving) == 1 and not number.is_graph_output()


def only_dequantized(quantize: ir.Node) -> bool:
    """Whether only DQs read what the Q gives."""
    codes = quantize.outputs[0]
    found = readers(codes)
    return (
        is_quantize(quantize)
        and bool(found)
        and not codes.is_graph_output()
        and all(is_dequantize(each) for each in found)
    )


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph
