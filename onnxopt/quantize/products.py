"""Products with a weight and a bias: what onnxruntime joins, and what their codes must be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.placement import WEIGHT_INPUT, weight_axis
from onnxopt.quantize.units import (
    ABSORBED,
    Unit,
    coding_of,
    constant_codes,
    int_attribute,
    is_constant,
    is_quantize,
    named,
    readers,
    source,
)


def trapped_product(node: ir.Node) -> ir.Node | None:
    """The MatMul of a MatMul and Add that onnxruntime joins to a float Gemm; None where not so.

    `node` is the one or the other. A bias of int32 behind a DQ, and a float one before a Q, work.
    """
    if ops.is_standard(node, "Add"):
        makers = (None if value is None else value.producer() for value in node.inputs)
        products = [each for each in makers if each is not None and each.op_type == "MatMul"]
        found = products[0] if products else None
        return found if found is not None and trapped_product(found) is found else None
    if not ops.is_standard(node, "MatMul") or None in map(source, node.inputs):
        return None
    outputs = named(node.outputs)
    following = readers(outputs[0]) if outputs and not outputs[0].is_graph_output() else ()
    if len(following) != 1 or not ops.is_standard(following[0], "Add"):
        return None
    add = following[0]
    other = next((value for value in add.inputs if value is not outputs[0]), None)
    if other is None or not is_constant(other) or not _is_row(other):
        return None
    behind = source(other)
    if behind is None:
        return None if _ends_in_quantizer(add) else node
    return None if coding_of(behind).dtype is ir.DataType.INT32 else node


def _ends_in_quantizer(add: ir.Node) -> bool:
    """Whether all that reads the sum is one Q, maybe after a Relu or Clip."""
    value = add.outputs[0]
    following = readers(value)
    if len(following) == 1 and following[0].op_type in ABSORBED and not value.is_graph_output():
        value = following[0].outputs[0]
        following = readers(value)
    return len(following) == 1 and is_quantize(following[0]) and not value.is_graph_output()


def right_axis(unit: Unit) -> int | None:
    """The axis that the scales of the unit's weight must run along."""
    node = unit.node
    codes = constant_codes(unit.sources[WEIGHT_INPUT[node.op_type]])
    rank = 2 if codes is None else codes.ndim
    return weight_axis(node.op_type, rank, bool(int_attribute(node, "transB", 0)))


def bias_makers(unit: Unit) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The DQs of input, weight and bias of a product; those of a MatMul for the Add behind it."""
    node, makers = unit.node, unit.sources[:3]
    if ops.is_standard(node, "Add"):
        products = [v.producer() for v in named(node.inputs) if _is_from(v, "MatMul")]
        biases = [maker for maker in unit.sources if maker is not None]
        if len(products) != 1 or len(biases) != 1 or products[0] is None:
            return None
        makers = (*(source(value) for value in products[0].inputs), biases[0])
    elif not ops.is_standard(node, "Conv", "Gemm"):
        return None
    found = [maker for maker in makers if maker is not None]
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def bias_scale_error(unit: Unit) -> float | None:
    """How many times too large the scale of an int32 bias is, at worst; None where it is right."""
    makers = bias_makers(unit)
    if makers is None:
        return None
    data, weight, bias = (coding_of(maker) for maker in makers)
    if bias.dtype is not ir.DataType.INT32 or not all(c.constant for c in (data, weight, bias)):
        return None
    assert data.scale is not None and weight.scale is not None and bias.scale is not None
    assert bias.zero_point is not None
    if bias.zero_point.any():
        return float("inf")
    wanted = data.scale.reshape(-1)[:1] * weight.scale.reshape(-1)
    if bias.scale.size not in (1, wanted.size) and wanted.size != 1:
        return float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = bias.scale.reshape(-1) / wanted
        off = np.abs(np.log2(np.where(ratio > 0, ratio, np.inf)))
    return float(ratio[int(off.argmax())]) if float(off.max()) > 1e-3 else None


def joined_product(unit: Unit) -> ir.Node | None:
    """The MatMul that an Add of an int32 bias becomes one Gemm with."""
    makers = bias_makers(unit) if ops.is_standard(unit.node, "Add") else None
    if makers is None or coding_of(makers[2]).dtype is not ir.DataType.INT32:
        return None
    for value in named(unit.node.inputs):
        maker = value.producer()
        if maker is not None and ops.is_standard(maker, "MatMul"):
            return maker if len(readers(value)) == 1 and not value.is_graph_output() else None
    return None


def _is_from(value: ir.Value, op_type: str) -> bool:
    maker = value.producer()
    return maker is not None and ops.is_standard(maker, op_type)


def _is_row(value: ir.Value) -> bool:
    behind = source(value)
    tensor = ops.constant(value if behind is None else behind.inputs[0])
    return tensor is not None and sum(size != 1 for size in tensor.shape.numpy()) <= 1
