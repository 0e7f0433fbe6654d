"""Tensors and element types between numpy, as foreign tools use it, and our IR."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def ir_dtype(dtype: Any) -> ir.DataType:
    """The element type behind a numpy dtype or a number of the schema.

    Raises:
        TypeError: ONNX has no such element type.
    """
    if isinstance(dtype, (int, np.integer)):
        return ir.DataType(int(dtype))
    return ir.DataType.from_numpy(np.dtype(dtype))


def new_tensor(array: np.ndarray, dtype: Any, name: str) -> ir.TensorProtocol:
    """The array as a tensor of element type `dtype` (numpy's, or the number in the schema).

    Raises:
        TypeError: ONNX has no such element type.
    """
    if array.dtype.kind in "OSU":
        raw = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        return ir.StringTensor(raw, shape=ir.Shape(array.shape), name=name)
    kind = ir_dtype(dtype)
    if ir.DataType.from_numpy(array.dtype) != kind:
        array = array.astype(kind.numpy())
    return ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=kind, name=name)


def same_tensor(left: ir.TensorProtocol, right: ir.TensorProtocol) -> bool:
    """Whether both have the same element type, shape and bits."""
    if left is right:
        return True
    if left.dtype != right.dtype or left.shape.numpy() != right.shape.numpy():
        return False
    if left.dtype == ir.DataType.STRING:
        return bool(np.array_equal(left.numpy(), right.numpy()))
    first, second = np.ascontiguousarray(left.numpy()), np.ascontiguousarray(right.numpy())
    return bool(np.array_equal(first.view(np.uint8), second.view(np.uint8)))
