"""Nodes and the Q/DQ pairs around them, as a quantized graph shows them.

Q stands for QuantizeLinear and DQ for DequantizeLinear, of the standard domain or of com.microsoft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops

Array = np.ndarray[Any, Any]

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
ABSORBED = frozenset({"Relu", "Clip"})
"""What a Q after it makes redundant where the Q's range ends at the same numbers."""
SIGNED_OF = {ir.DataType.INT8: ir.DataType.UINT8, ir.DataType.INT16: ir.DataType.UINT16}


@dataclass(frozen=True, slots=True)
class Coding:
    """How a Q or DQ turns numbers into codes: number = (code - zero_point) * scale.

    `scale` (float, rank 0 or 1, or of the data's rank in blocks) and `zero_point` (int64 whatever
    the type of the codes) are None where they are computed; `zero_point` is 0 where it is absent.
    `axis` is the one that a rank-1 scale runs along, None per tensor.
    """

    scale: Array | None
    zero_point: Array | None
    dtype: ir.DataType
    number: ir.DataType
    axis: int | None
    block: int
    has_zero_point: bool

    @property
    def per_tensor(self) -> bool:
        return self.scale is not None and self.scale.size == 1

    @property
    def constant(self) -> bool:
        return self.scale is not None and self.zero_point is not None

    @property
    def is_byte(self) -> bool:
        return self.dtype in (ir.DataType.INT8, ir.DataType.UINT8)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number that a code stands for, per tensor."""
        assert self.scale is not None and self.zero_point is not None
        low, high = code_limits(self.dtype)
        scale, zero = float(self.scale.reshape(-1)[0]), int(self.zero_point.reshape(-1)[0])
        return (low - zero) * scale, (high - zero) * scale

    def same(self, other: Coding) -> bool:
        """Whether both give the same numbers to the same codes, for sure."""
        if not (self.constant and other.constant and self.dtype is other.dtype):
            return False
        assert self.zero_point is not None and other.zero_point is not None
        assert self.scale is not None and other.scale is not None
        return (
            self.scale.size == other.scale.size
            and (self.axis == other.axis or self.scale.size == 1)
            and self.block == other.block
            and bool((self.scale.reshape(-1) == other.scale.reshape(-1)).all())
            and bool((self.zero_point.reshape(-1) == other.zero_point.reshape(-1)).all())
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """A node, the DQ behind each input (None: a float), and the Qs on its outputs.

    `activation` is a Relu or Clip that lies alone between the node and its Qs.
    """

    node: ir.Node
    sources: tuple[ir.Node | None, ...]
    sinks: tuple[ir.Node, ...]
    activation: ir.Node | None = None

    @property
    def end(self) -> tuple[ir.Value, ...]:
        """The values that the Qs should read."""
        last = self.node if self.activation is None else self.activation
        return named(last.outputs)


def is_quantize(node: ir.Node | None) -> bool:
    """Whether it is a Q."""
    return node is not None and node.op_type == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether it is a DQ."""
    return node is not None and node.op_type == "DequantizeLinear" and node.domain in _DOMAINS


def source(value: ir.Value | None) -> ir.Node | None:
    """The DQ that a value comes from, or None."""
    producer = None if value is None else value.producer()
    return producer if is_dequantize(producer) else None


def named(values: Any) -> tuple[ir.Value, ...]:
    """The values that exist: an optional output that is left out has no name."""
    return tuple(value for value in values if value is not None and value.name)


def readers(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that read the value, each once, in order of use."""
    return tuple(dict.fromkeys(use.node for use in value.uses()))


def unit_of(node: ir.Node) -> Unit:
    """The node with the Q/DQ nodes around it."""
    sources = tuple(source(value) for value in node.inputs)
    outputs = named(node.outputs)
    activation = None
    if len(outputs) == 1 and not outputs[0].is_graph_output():
        following = readers(outputs[0])
        if len(following) == 1 and following[0].op_type in ABSORBED and not is_byte_op(node):
            activation = following[0]
    after = outputs if activation is None else named(activation.outputs)
    sinks = tuple(each for value in after for each in readers(value) if is_quantize(each))
    if activation is not None and not sinks:
        return Unit(node, sources, ())
    return Unit(node, sources, sinks, activation)


def is_byte_op(node: ir.Node) -> bool:
    """Whether the node only says how numbers are coded."""
    return is_quantize(node) or is_dequantize(node)


def coding_of(node: ir.Node) -> Coding:
    """How a Q or DQ codes numbers."""
    zero_value = node.inputs[2] if len(node.inputs) > 2 else None
    scale, zero = ops.constant(node.inputs[1]), ops.constant(zero_value)
    scales = None if scale is None else np.asarray(scale.numpy(), np.float64)
    zeros = np.zeros((), np.int64) if zero_value is None else None
    if zero is not None:
        zeros = np.asarray(zero.numpy()).astype(np.int64)
    along = scales is not None and scales.ndim > 0 and scales.size > 1
    kind = node.inputs[1]
    return Coding(
        scales,
        zeros,
        _code_type(node, zero_value),
        (scale.dtype if scale is not None else kind.dtype if kind is not None else None)
        or ir.DataType.FLOAT,
        int_attribute(node, "axis", 1) if along else None,
        int_attribute(node, "block_size", 0),
        zero_value is not None,
    )


def code_limits(dtype: ir.DataType) -> tuple[int, int]:
    """The smallest and the largest code; those of 8 bits for what has no integer codes."""
    bits = dtype.bitwidth if dtype.name.startswith(("INT", "UINT")) else 8
    if dtype.name.startswith("UINT"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def constant_codes(dequantize: ir.Node | None) -> Array | None:
    """The codes of a quantized constant, None where the DQ reads something computed."""
    tensor = None if dequantize is None else ops.constant(dequantize.inputs[0])
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is a constant, or one behind a DQ."""
    behind = source(value)
    return ops.is_constant(value) or (behind is not None and ops.is_constant(behind.inputs[0]))


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or the default where it is not set."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A number attribute, or the default where it is not set."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.as_float()


def clip_bounds(clip: ir.Node) -> tuple[float, float]:
    """What a Clip keeps numbers between; infinite where nothing constant is said."""
    found = [-np.inf, np.inf]
    for i, name in enumerate(("min", "max")):
        value = clip.inputs[i + 1] if len(clip.inputs) > i + 1 else None
        tensor = ops.constant(value)
        if tensor is not None:
            found[i] = float(tensor.numpy().reshape(-1)[0])
        elif name in clip.attributes:
            found[i] = clip.attributes[name].as_float()
    return found[0], found[1]


def along_axis(array: Array, rank: int, axis: int | None) -> Array:
    """A scale or zero point in the shape that broadcasts against data of this rank."""
    if array.size == 1 or axis is None:
        return array.reshape(()) if array.size == 1 else array
    shape = [1] * rank
    shape[axis] = -1
    return array.reshape(shape)


def numbers(codes: Array, coding: Coding) -> Array | None:
    """The float32 numbers behind constant codes; None for what is computed."""
    if not coding.constant:
        return None
    assert coding.scale is not None and coding.zero_point is not None
    scale, zero = coding.scale, coding.zero_point
    if coding.block and scale.ndim == codes.ndim:
        axis = 1 if coding.axis is None else coding.axis
        scale, zero = (_spread(part, codes.shape, axis, coding.block) for part in (scale, zero))
    else:
        scale = along_axis(scale, codes.ndim, coding.axis)
        zero = along_axis(zero, codes.ndim, coding.axis)
    return ((codes.astype(np.int64) - zero) * scale).astype(np.float32)


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes of the main graph and the graphs inside of it."""
    yield from model.graph.all_nodes()


def _spread(part: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    if part.ndim != len(shape):
        return part
    return np.repeat(part, block, axis=axis).take(range(shape[axis]), axis=axis)


def _code_type(node: ir.Node, zero: ir.Value | None) -> ir.DataType:
    known = _known_type(zero)
    if known is not None:
        return known
    if is_quantize(node):
        return ir.DataType(int_attribute(node, "output_dtype", 0) or ir.DataType.UINT8.value)
    codes = node.inputs[0]
    producer = None if codes is None else codes.producer()
    if producer is not None and is_quantize(producer):
        return _code_type(producer, producer.inputs[2] if len(producer.inputs) > 2 else None)
    return _known_type(codes) or ir.DataType.UINT8


def _known_type(value: ir.Value | None) -> ir.DataType | None:
    tensor = ops.constant(value)
    if tensor is not None:
        return tensor.dtype
    return None if value is None else value.dtype
