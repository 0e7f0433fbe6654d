"""Makes chosen nodes compute in 16-bit floats; casts stand only where numbers change their type."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.passes import shapes
from onnxopt.quantize.draft import Draft, drop_unread, graph_of, home_of
from onnxopt.quantize.half import RECURRENT, allows_half, fits, half_slots

Array = np.ndarray[Any, np.dtype[Any]]
_FLOAT = ir.DataType.FLOAT
_FEW = 1024
_SUFFIX = {ir.DataType.FLOAT16: "half", ir.DataType.BFLOAT16: "bfloat"}


def with_half(model: ir.Model, chosen: Collection[str], dtype: ir.DataType) -> ir.Model:
    """A copy of the model whose chosen nodes compute in `dtype`; its interface stays float32.

    Args:
        model: The model, its types inferred; every node has a name of its own.
        chosen: Names of the nodes, out of those that `half.half_choices` allows.
        dtype: FLOAT16 or BFLOAT16.
    """
    result = model.clone()
    writer = _Writer(result, dtype)
    for node in tuple(result.graph.all_nodes()):
        if node.name in chosen:
            writer.narrow(node)
        else:
            writer.widen(node)
    for graph in (result.graph, *result.graph.subgraphs()):
        writer.close(graph)
    io.release(model)
    drop_unread(result)
    shapes.restore(result)
    return result


@dataclass(slots=True)
class _Writer:
    model: ir.Model
    dtype: ir.DataType
    draft: Draft = field(init=False)
    narrowed: set[ir.Value] = field(default_factory=set)
    casts: dict[tuple[ir.Value, ir.Graph, ir.DataType], ir.Value] = field(default_factory=dict)
    constants: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draft = Draft(self.model)

    def narrow(self, node: ir.Node) -> None:
        """Let the node read and write 16 bits."""
        version = self.model.opset_imports.get(node.domain, 0)
        slots = half_slots(node, version, self.dtype)
        for slot, value in enumerate(node.inputs):
            if value in self.narrowed and value is not None:
                if not allows_half(node, version, slot, self.dtype):
                    node.replace_input_with(slot, self._cast(value, node, _FLOAT))
            elif value is not None and slot in slots:
                constant = ops.constant(value)
                if constant is None:
                    new = self._cast(value, node, self.dtype)
                else:
                    new = self._constant(value, constant, node)
                node.replace_input_with(slot, new)
        if node.op_type == "Cast" and node.outputs[0].dtype is _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", self.dtype.value)
        if node.op_type == "ConstantOfShape":
            self._fill(node)
        for value in node.outputs:
            if value.dtype is _FLOAT:
                value.type = ir.TensorType(self.dtype)
                self.narrowed.add(value)

    def widen(self, node: ir.Node) -> None:
        """Let the node read 32 bits, as it always did.

        The weights of recurrences are stored in 16 bits all the same; onnxruntime widens them once,
        when it loads the model.
        """
        for slot, value in enumerate(node.inputs):
            if value is None:
                continue
            constant = ops.constant(value) if ops.is_standard(node, *RECURRENT) else None
            if constant is not None and constant.size > _FEW and fits(constant, self.dtype):
                value = self._constant(value, constant, node)
                self.narrowed.add(value)
            if value in self.narrowed:
                node.replace_input_with(slot, self._cast(value, node, _FLOAT))

    def close(self, graph: ir.Graph) -> None:
        """Give the graph's outputs 32 bits, under their names."""
        last = None
        for slot, value in enumerate(graph.outputs):
            if value not in self.narrowed:
                continue
            name, maker = value.name or "y", value.producer()
            last = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _FLOAT.value)])
            last.name = f"{name}_widened"
            wide = last.outputs[0]
            wide.shape, wide.type = value.shape, ir.TensorType(_FLOAT)
            graph.append(last)
            graph.outputs[slot] = wide
            if maker is not None and maker.graph is graph and not value.is_graph_output():
                value.name = self.draft.fresh(f"{name}_{_SUFFIX[self.dtype]}")
                wide.name = name
                for key, item in value.meta.items():
                    wide.meta[key] = item
                value.meta.clear()
            else:
                wide.name = self.draft.fresh(f"{name}_widened")

    def _cast(self, value: ir.Value, reader: ir.Node, dtype: ir.DataType) -> ir.Value:
        """The value as `dtype`; readers in one graph share the cast."""
        key = (value, graph_of(reader), dtype)
        if key not in self.casts:
            suffix = "wide" if dtype is _FLOAT else _SUFFIX[dtype]
            outputs = [(f"{value.name}_{suffix}", dtype)]
            to = [ir.AttrInt64("to", dtype.value)]
            (made,) = self.draft.node(reader, "Cast", [value], outputs, to)
            made.shape = value.shape
            self.casts[key] = made
        return self.casts[key]

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol, reader: ir.Node) -> ir.Value:
        if value not in self.constants:
            home, name = home_of(value, reader), f"{value.name}_{_SUFFIX[self.dtype]}"
            numbers = _rounded(tensor.numpy(), self.dtype)
            self.constants[value] = self.draft.constant(home, name, numbers, self.dtype)
        return self.constants[value]

    def _fill(self, node: ir.Node) -> None:
        tensor = ops.tensor_of(node.attributes.get("value"))
        number = np.zeros(1, np.float32) if tensor is None else tensor.numpy()
        filled = ir.tensor(_rounded(number, self.dtype), dtype=self.dtype)
        node.attributes["value"] = ir.AttrTensor("value", filled)


def _rounded(numbers: Array, dtype: ir.DataType) -> Array:
    return np.asarray(numbers.astype(dtype.numpy()))
