"""The weights of products as rows of numbers, which can be read, changed and written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.products import LONGEST
from onnxopt.quantize.covariance import refusal
from onnxopt.rewrite.hit import NodeView

Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The constant weight of a Conv, Gemm or MatMul: `groups` matrices of rows, one row an output.

    `weight` and `bias` are names of constants; `bias` is empty where none can be moved. A row has
    `channels` inputs with `window` numbers each, in this order. `turned` says that the weight is
    stored with a column for each output. `unmeasured` is why the vectors that the rows meet can't
    be measured, empty where they can.
    """

    node: str
    op: str
    weight: str
    bias: str
    groups: int
    channels: int
    window: int
    turned: bool
    unmeasured: str

    @property
    def depthwise(self) -> bool:
        """Whether each output reads a single channel."""
        return self.op == "Conv" and self.groups > 1 and self.channels == 1

    def rows(self, values: Mapping[str, ir.Value]) -> Array:
        """The weight, float64 [groups, outputs / groups, channels * window]."""
        array = _array(values[self.weight]).astype(np.float64)
        turned = array.T if self.turned else array
        return turned.reshape(self.groups, -1, self.channels * self.window)

    def offset(self, values: Mapping[str, ir.Value]) -> Array | None:
        """The bias, float64 [outputs]; None where there is none."""
        return _array(values[self.bias]).astype(np.float64).reshape(-1) if self.bias else None

    def put(self, values: Mapping[str, ir.Value], rows: Array, offset: Array | None) -> None:
        """Write both back, each in its own dtype."""
        flat = rows.reshape(-1, self.channels * self.window)
        _store(values[self.weight], flat.T if self.turned else flat)
        if self.bias and offset is not None:
            _store(values[self.bias], offset)


def matrices(model: ir.Model) -> tuple[list[Matrix], dict[str, str]]:
    """The weights of the main graph in its order, and why other products have none: by node name.

    Nodes must have names (see `named`).
    """
    found: list[Matrix] = []
    left: dict[str, str] = {}
    for node in model.graph:
        if ops.is_standard(node, "Conv", "Gemm", "MatMul"):
            looked = _matrix(node)
            if isinstance(looked, str):
                left[node.name or ""] = looked
            else:
                found.append(looked)
    return found, left


def named(model: ir.Model) -> ir.Model:
    """A copy in which every node of the main graph has a name of its own."""
    copy = model.clone()
    taken = {node.name for node in model.graph}
    seen: set[str] = set()
    for index, node in enumerate(copy.graph):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken or name in seen:
                name += "_"
            node.name = name
        seen.add(node.name)
    return copy


def constants(model: ir.Model) -> dict[str, ir.Value]:
    """The constants of the main graph by name."""
    made = (value for node in model.graph for value in node.outputs if ops.is_constant(value))
    return {str(value.name): value for value in (*model.graph.initializers.values(), *made)}


def _matrix(node: ir.Node) -> Matrix | str:
    first, second = node.inputs[0], node.inputs[1]
    left = node.op_type == "MatMul" and ops.is_constant(first)
    weight = first if left else second
    tensor = ops.constant(weight)
    if weight is None or tensor is None:
        return "its weight is computed as the model runs, or can be overridden"
    if tensor.dtype not in _FLOATS:
        return f"its weight is {tensor.dtype.name.lower()}"
    shape = tuple(tensor.shape.numpy())
    if len(shape) != 2 and node.op_type != "Conv":
        return "its weight is a stack of matrices"
    if len(list(weight.uses())) != 1 or weight.is_graph_output():
        return "its weight is used elsewhere too"
    if not int(np.prod(shape)):
        return "its weight is empty"
    view = NodeView(node)
    groups = int(view.attr("group", 1)) if node.op_type == "Conv" else 1
    turned = not left and node.op_type != "Conv" and not view.attr("transB", 0)
    channels = shape[0] if turned else shape[1]
    window = int(np.prod(shape[2:]))
    return Matrix(
        node.name or "", node.op_type, weight.name or "", _bias(node, shape[1 if turned else 0]),
        groups, channels, window, turned, _unmeasured(node, tensor, channels * window),
    )  # fmt: skip


def _unmeasured(node: ir.Node, tensor: ir.TensorProtocol, length: int) -> str:
    if tensor.dtype != ir.DataType.FLOAT:
        return f"it computes in {tensor.dtype.name.lower()}"
    if length > LONGEST:
        return f"its rows of {length:,} numbers are too long to be fitted"
    return refusal(node)


def _bias(node: ir.Node, outputs: int) -> str:
    """The name of the constant row that is added to the outputs, if nothing else reads it."""
    operand = node.inputs[2] if len(node.inputs) > 2 else None
    view = NodeView(node)
    if view.attr("alpha", 1.0) != 1.0 or view.attr("beta", 1.0) != 1.0:
        return ""
    if node.op_type == "MatMul":
        uses = list(node.outputs[0].uses())
        alone = len(uses) == 1 and ops.is_standard(uses[0].node, "Add")
        operand = uses[0].node.inputs[1 - uses[0].idx] if alone else None
        if ops.is_constant(node.inputs[0]):
            return ""
    row = ops.constant(operand)
    if operand is None or row is None or row.size != outputs:
        return ""
    alone = len(list(operand.uses())) == 1 and not operand.is_graph_output()
    straight = bool(row.shape.numpy()) and row.shape.numpy()[-1] == outputs
    return operand.name or "" if alone and straight and row.dtype in _FLOATS else ""


def _array(value: ir.Value) -> Array:
    tensor = ops.constant(value)
    assert tensor is not None, "matrices are constants"
    return np.asarray(tensor.numpy())


def _store(value: ir.Value, numbers: Array) -> None:
    old = _array(value)
    array = np.ascontiguousarray(numbers.reshape(old.shape).astype(old.dtype))
    ops.store_constant(value, ir.tensor(array, name=value.name))
