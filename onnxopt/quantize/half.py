"""Which nodes can compute in 16-bit floats, and why the others stay in 32 bits.

float16 holds numbers up to 65504 and whole numbers up to 2048, bfloat16 numbers as large as
float32's with three digits. An operator stays in 32 bits where the standard has no 16-bit form of
it, where sums or powers outgrow 16 bits, where numbers become places or whole numbers, and where a
constant does not fit, with all that its size reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.records import Choice, Range
from onnxopt.quantize.units import int_attribute

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: float("inf")}
LEAST = {ir.DataType.FLOAT16: 2.0**-14, ir.DataType.BFLOAT16: 0.0}
"""The least number with all its digits; constants below it stay as they are."""
WORDS = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}

_SUMS = "its sums or powers can outgrow 16 bits"
_PLACES = "its numbers are places, which need more digits"
_WHOLE = "its numbers become whole numbers, which need more digits"

KEPT: dict[str, str] = {
    **dict.fromkeys(
        ("CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
        _SUMS,
    ),
    **dict.fromkeys(
        ("LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Pow", "RMSNormalization"),
        _SUMS,
    ),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"), _SUMS),
    **dict.fromkeys(("ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax"), _SUMS),
    **dict.fromkeys(
        ("AffineGrid", "GridSample", "NonMaxSuppression", "Range", "Resize", "RoiAlign"), _PLACES
    ),
    **dict.fromkeys(("MaxRoiPool", "Upsample"), _PLACES),
    **dict.fromkeys(ops.CONTROL_FLOW, "its bodies keep their interface"),
    **dict.fromkeys(ops.QUANTIZING, "it is quantized"),
}
"""Operators that stay in 32 bits whatever they read."""

RECURRENT = ("GRU", "LSTM", "RNN")
"""On a CPU they stay in 32 bits: onnxruntime crashes while it casts around them."""

_BOUNDING = frozenset(
    {"Clip", "Erf", "HardSigmoid", "Sigmoid", "Sign", "Sin", "Cos", "Softmax", "Softsign", "Tanh"}
)
"""What they give is small, whatever they read."""

_FLOAT = ir.DataType.FLOAT


def half_choices(
    model: ir.Model,
    dtype: ir.DataType,
    ranges: Mapping[str, Range] | None = None,
    *,
    recurrences: bool = True,
) -> tuple[Choice, ...]:
    """A choice for each node that reads or writes float32 numbers.

    Args:
        model: The model, its types inferred; every node has a name of its own.
        dtype: FLOAT16 or BFLOAT16.
        ranges: What values reach on data, by name.
        recurrences: Whether the target has 16-bit LSTMs and their like.
    """
    whole = _becoming_whole(model)
    large: set[ir.Value] = set()
    narrow: set[ir.Value | None] = set()
    found = []
    for node in model.graph.all_nodes():
        if not any(each is not None and _is_float(each) for each in (*node.inputs, *node.outputs)):
            continue
        if node.op_type == "Constant":
            continue
        refusal = _refusal(model, node, dtype, whole, large, ranges or {})
        if not recurrences and ops.is_standard(node, *RECURRENT):
            refusal = "the provider computes it in 32 bits only; its weights are stored in 16"
        # Casts in front of a Transpose crash onnxruntime 1.31; behind it they cost the same.
        if (
            not refusal
            and ops.is_standard(node, *ops.SHAPE_MOVING)
            and node.inputs[0] not in narrow
        ):
            refusal = "it moves numbers that come in 32 bits"
        if not refusal:
            narrow.update(node.outputs)
        reason = refusal or f"computed in {WORDS[dtype]}"
        found.append(Choice(node.name or "", node.op_type, not refusal, reason))
    return tuple(found)


def _refusal(
    model: ir.Model,
    node: ir.Node,
    dtype: ir.DataType,
    whole: set[ir.Node],
    large: set[ir.Value],
    ranges: Mapping[str, Range],
) -> str:
    """Why the node stays in 32 bits; what may be too large for 16 joins `large`."""
    reached = [value for value in node.inputs if value in large]
    misfit = _misfit(node, dtype)
    if (reached or misfit.endswith("too large")) and node.op_type not in _BOUNDING:
        large.update(node.outputs)
    if node.op_type in KEPT and ops.is_standard(node):
        return KEPT[node.op_type]
    version = model.opset_imports.get(node.domain, 0)
    if not takes_half(node, version, dtype):
        return f"it has no form for {WORDS[dtype]}"
    if misfit:
        return misfit
    if reached:
        return f"what it reads may be larger than {LARGEST[dtype]:g}"
    if node in whole:
        return _WHOLE
    for value in (*node.inputs, *node.outputs):
        known = None if value is None else ranges.get(value.name or "")
        if known is not None and max(-known.low, known.high) > LARGEST[dtype] / 2:
            return f"it reaches {max(-known.low, known.high):.3g} on the samples"
    return ""


def half_slots(node: ir.Node, version: int, dtype: ir.DataType) -> tuple[int, ...]:
    """The inputs of the node that can be of this type."""
    return tuple(
        slot
        for slot, value in enumerate(node.inputs)
        if value is not None and _is_float(value) and allows_half(node, version, slot, dtype)
    )


def takes_half(node: ir.Node, version: int, dtype: ir.DataType) -> bool:
    """Whether the standard lets the node compute with numbers of this type."""
    outputs = [slot for slot, value in enumerate(node.outputs) if _is_float(value)]
    if any(not allows_half(node, version, slot, dtype, output=True) for slot in outputs):
        return False
    return bool(outputs) or bool(half_slots(node, version, dtype))


@cache
def _schema(domain: str, op_type: str, version: int) -> Any:
    try:
        return onnx.defs.get_schema(op_type, version, "" if domain == "ai.onnx" else domain)
    except Exception:  # onnx.defs.SchemaError has no public base
        return None


def fits(tensor: ir.TensorProtocol, dtype: ir.DataType) -> bool:
    """Whether float32 numbers can be stored as the type."""
    return tensor.dtype is _FLOAT and LEAST[dtype] <= _largest(tensor) <= LARGEST[dtype]


def allows_half(
    node: ir.Node, version: int, slot: int, dtype: ir.DataType, *, output: bool = False
) -> bool:
    """Whether the standard lets this input, or output, be of the type."""
    schema = _schema(node.domain, node.op_type, version)
    formal = () if schema is None else schema.outputs if output else schema.inputs
    if not formal:
        return False
    # The last parameter may stand for any number of values.
    return f"tensor({WORDS[dtype]})" in formal[min(slot, len(formal) - 1)].types


def _is_float(value: ir.Value) -> bool:
    return value.dtype is _FLOAT


def _misfit(node: ir.Node, dtype: ir.DataType) -> str:
    """What is wrong with the constants that the node reads, or holds."""
    held = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
    tensors = [ops.constant(value) for value in node.inputs]
    for tensor in (*tensors, ops.tensor_of(held)):
        if tensor is None or tensor.dtype is not _FLOAT or not tensor.size:
            continue
        most = _largest(tensor)
        if most > LARGEST[dtype]:
            return f"its constant {most:.3g} is too large"
        if 0 < most < LEAST[dtype]:
            return f"its constant {most:.3g} is too small"
    return ""


def _largest(tensor: ir.TensorProtocol) -> float:
    """The largest finite magnitude."""
    flat = tensor.numpy().reshape(-1)
    most = 0.0
    for start in range(0, flat.size, 1 << 22):
        part = np.abs(flat[start : start + (1 << 22)])
        most = max(most, float(part.max(initial=0, where=np.isfinite(part))))
    return most


def _becoming_whole(model: ir.Model) -> set[ir.Node]:
    """The nodes between which numbers are on their way to a cast to whole numbers or to places."""
    waiting: list[ir.Value | None] = []
    for node in model.graph.all_nodes():
        if node.op_type == "Cast" and not _is_float(node.outputs[0]):
            to = ir.DataType(int_attribute(node, "to", _FLOAT.value))
            waiting += node.inputs if to.is_integer() else ()
        elif KEPT.get(node.op_type) == _PLACES:
            waiting += node.inputs[1:] or node.inputs
    found: set[ir.Node] = set()
    passing = ops.ELEMENTWISE_UNARY | ops.ELEMENTWISE_BINARY | ops.SHAPE_MOVING
    while waiting:
        value = waiting.pop()
        maker = value.producer() if value is not None and _is_float(value) else None
        if maker is not None and maker not in found:
            found.add(maker)
            if ops.is_standard(maker, *passing, "Concat", "Gather", "Slice"):
                waiting += maker.inputs
    return found
