"""Where the weights of a model are, and which of them a mode without calibration can code.

A site is a node with a constant float32 weight: a product, a recurrence, a convolution or a table
that rows are looked up in. Sites lie in bodies of If, Loop and Scan too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.units import float_attribute, int_attribute, source

Kind = Literal["product", "recurrence", "convolution", "table"]

WEIGHT_SLOTS: dict[str, tuple[Kind, int]] = {
    "Conv": ("convolution", 1),
    "ConvTranspose": ("convolution", 1),
    "GRU": ("recurrence", 1),
    "Gather": ("table", 0),
    "Gemm": ("product", 1),
    "LSTM": ("recurrence", 1),
    "MatMul": ("product", 1),
    "RNN": ("recurrence", 1),
}
"""What kind of site an operator makes, and which input is the weight."""


@dataclass(frozen=True, slots=True)
class Site:
    """A node with a weight; `refusal` says why no mode can code it, and is empty where one can."""

    node: ir.Node
    kind: Kind
    weight: ir.Value | None
    refusal: str = ""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""

    @property
    def size(self) -> int:
        """How many weights there are."""
        tensor = ops.constant(self.weight)
        return 0 if tensor is None else int(tensor.size)


def sites(model: ir.Model) -> Iterator[Site]:
    """Every product, recurrence, convolution and float table, in the model's order."""
    for node in model.graph.all_nodes():
        if not ops.is_standard(node, *WEIGHT_SLOTS):
            continue
        kind, slot = WEIGHT_SLOTS[node.op_type]
        weight = node.inputs[slot] if slot < len(node.inputs) else None
        if kind == "table" and (weight is None or not _is_table(weight)):
            continue
        yield Site(node, kind, weight, _refusal(node, kind, weight))


def is_transposed(node: ir.Node) -> bool:
    """Whether the weight of a product has its output channels along axis 0."""
    return node.op_type == "Gemm" and bool(int_attribute(node, "transB", 0))


def _is_table(value: ir.Value) -> bool:
    tensor = ops.constant(value)
    return tensor is not None and tensor.dtype is ir.DataType.FLOAT and len(tensor.shape) == 2


def _refusal(node: ir.Node, kind: Kind, weight: ir.Value | None) -> str:
    if source(weight) is not None:
        return "its weight is quantized already"
    tensor = ops.constant(weight)
    if tensor is None:
        return "both of its inputs are computed" if kind == "product" else "its weight is computed"
    if tensor.dtype is not ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, and only float32 can be coded"
    if kind == "product":
        return _product_refusal(node, tensor)
    if kind == "recurrence":
        return _recurrence_refusal(node)
    if kind == "table" and int_attribute(node, "axis", 0) != 0:
        return "it does not look up whole rows"
    return ""


def _product_refusal(node: ir.Node, tensor: ir.TensorProtocol) -> str:
    if len(tensor.shape) != 2:
        return "its weight is not a matrix"
    if ops.is_constant(node.inputs[0]):
        return "both of its inputs are constant"
    if node.op_type == "Gemm":
        if float_attribute(node, "alpha", 1.0) != 1.0 or float_attribute(node, "beta", 1.0) != 1.0:
            return "its alpha or beta is not 1"
        if int_attribute(node, "transA", 0):
            return "its input is transposed"
    return ""


def _recurrence_refusal(node: ir.Node) -> str:
    if node.op_type != "LSTM":
        return f"onnxruntime has no integer {node.op_type}"
    if ops.constant(node.inputs[2]) is None:
        return "its recurrent weight is computed"
    if int_attribute(node, "layout", 0):
        return "its layout is batch first"
    return ""
