"""The element types of outputs, for the operators that leave no doubt about them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxopt import ops


def output_types(node: ir.Node) -> list[ir.TypeProtocol] | None:
    """A type for each output of a node whose inputs have theirs; None where no table has it."""
    if not ops.is_standard(node) or not node.outputs:
        return None
    tensor = ops.constant(node.outputs[0])
    if tensor is not None:
        return [ir.TensorType(tensor.dtype)]
    if len(node.outputs) > 1 and node.op_type != "Split":
        return None
    if node.op_type in ops.TYPE_KEEPING:
        found = _of_input(node, 0)
    else:
        rule = _RULES.get(node.op_type)
        found = rule(node) if rule is not None else None
    return None if found is None else [found] * len(node.outputs)


def _of_input(node: ir.Node, index: int) -> ir.TypeProtocol | None:
    source = node.inputs[index] if index < len(node.inputs) else None
    found = None if source is None else source.type
    return found if isinstance(found, ir.TensorType) else None


def _of_cast(node: ir.Node) -> ir.TypeProtocol | None:
    to = node.attributes.get("to")
    if to is None or to.is_ref() or to.type is not ir.AttributeType.INT:
        return None
    return ir.TensorType(ir.DataType(to.as_int()))


def _of_filled(node: ir.Node) -> ir.TypeProtocol | None:
    value = node.attributes.get("value")
    if value is None:
        return ir.TensorType(ir.DataType.FLOAT)
    tensor = ops.tensor_of(value)
    return None if tensor is None else ir.TensorType(tensor.dtype)


def _bool(node: ir.Node) -> ir.TypeProtocol | None:
    return ir.TensorType(ir.DataType.BOOL)


def _int64(node: ir.Node) -> ir.TypeProtocol | None:
    return ir.TensorType(ir.DataType.INT64)


_RULES: dict[str, Callable[[ir.Node], ir.TypeProtocol | None]] = {
    **dict.fromkeys(ops.ASKING, _bool),
    **dict.fromkeys(ops.SHAPE_ONLY, _int64),
    "Cast": _of_cast,
    "CastLike": lambda node: _of_input(node, 1),
    "ConstantOfShape": _of_filled,
    "Where": lambda node: _of_input(node, 1),
}
