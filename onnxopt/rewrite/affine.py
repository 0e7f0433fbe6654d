"""What a node does to each channel of a tensor: y = gain · x + shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.rewrite.build import NewConst, RewriteBuilder
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Unmatched

Array = np.ndarray[Any, np.dtype[Any]]

SMALL_BYTES = 1024
"""A weight up to this size may be stored twice."""

FUSED = "it is part of what onnxruntime fuses when it loads the model"
"""Why a constant where `ends_fusion` holds stays."""


@dataclass(frozen=True, slots=True)
class Affine:
    """One float64 number per channel for the gain and for the shift; None where there is none."""

    gain: Array | None = None
    shift: Array | None = None

    def scaled(self, weight: Array, gain_shape: Any) -> Array:
        """`weight` times the gain, whose channels lie as `gain_shape` says; float64."""
        wide = wide_array(weight)
        return wide if self.gain is None else wide * self.gain.reshape(gain_shape)

    def repeated(self, copies: int) -> Affine:
        """The same with each channel `copies` times in a row."""
        gain = None if self.gain is None else self.gain.repeat(copies)
        return Affine(gain, None if self.shift is None else self.shift.repeat(copies))

    def part(self, start: int, end: int) -> Affine:
        """What it does to the channels from `start` to before `end`."""
        gain = None if self.gain is None else self.gain[start:end]
        return Affine(gain, None if self.shift is None else self.shift[start:end])

    def after(self, bias: Array | None) -> Array | None:
        """The bias of a linear op that this is folded into from behind."""
        return self.shift if bias is None else self.of(bias)

    def of(self, bias: Array) -> Array:
        """What comes out for an input of `bias`."""
        moved = wide_array(bias) if self.gain is None else wide_array(bias) * self.gain
        return moved if self.shift is None else moved + self.shift


def wide_array(array: Array) -> Array:
    """The same numbers in float64, in which all folding is done."""
    return array.astype(np.float64)


def per_channel(constant: Operand, rank: int, axis: int, channels: int) -> Array:
    """The constant as one float64 number per channel of a tensor of `rank` dims.

    Raises Unmatched unless it has a single element or varies along `axis` only, and where it
    would raise the tensor's rank.
    """
    array = constant.array
    dims = (1,) * (rank - array.ndim) + array.shape
    varies = [index for index, dim in enumerate(dims) if dim != 1]
    if len(dims) > rank or varies not in ([], [axis]) or dims[axis] not in (1, channels):
        raise Unmatched("not one number per channel")
    return np.broadcast_to(wide_array(array).reshape(-1), (channels,))


def of_elementwise(
    hit: Hit, node: NodeView, constant: Operand, rank: int, axis: int, channels: int
) -> Affine:
    """Add, Sub, Mul or Div with a constant, as what it does to each channel along `axis`."""
    numbers = per_channel(constant, rank, axis, channels)
    if node.op_type == "Add":
        return Affine(None, numbers)
    if node.op_type == "Mul":
        return Affine(numbers, None)
    if node.op_type == "Div":
        hit.require(np.all(numbers != 0), "it divides by zero")
        return Affine(1.0 / numbers, None)
    if node.input(0) == constant:
        return Affine(-np.ones(channels), numbers)
    return Affine(None, -numbers)


def of_batch_norm(hit: Hit, norm: NodeView, channels: int) -> Affine:
    """A BatchNormalization at inference, as what it does to each channel.

    Source: ONNX operator BatchNormalization, versions 7 to 15; `spatial` left with version 9.
    """
    require_inference(hit, norm)
    scale, bias, mean, variance = (_numbers(norm, i, channels) for i in range(1, 5))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = scale / np.sqrt(variance + norm.attr("epsilon"))
    hit.require(np.all(np.isfinite(gain)), "the variance is not positive in every channel")
    return Affine(gain, bias - mean * gain)


def require_inference(hit: Hit, norm: NodeView) -> None:
    """Refuse a BatchNormalization that trains or keeps statistics for every activation."""
    named = [output for output in norm.outputs if output.name]
    training = norm.attr("training_mode") or len(named) > 1
    hit.require(not training, "the BatchNormalization is in training mode")
    hit.require(
        norm.attr("spatial", 1) == 1, "the BatchNormalization has statistics for every activation"
    )


def _numbers(norm: NodeView, index: int, channels: int) -> Array:
    operand = norm.input(index)
    if operand is None or not operand.is_const or operand.array.shape != (channels,):
        raise Unmatched("not one number per channel")
    return wide_array(operand.array)


def ends_fusion(x: Operand) -> bool:
    """Whether a constant factor or summand after `x` is the tail of what onnxruntime fuses.

    It knows the pieces of LayerNormalization (a quotient by a root, its scale, its bias) and of
    Gelu (a product with 1 + erf or 1 + tanh, its half) when it loads a model; without the tail it
    would run them one by one. Source: onnxruntime's LayerNormFusion and GeluFusion.
    """
    node = x.producer
    if node is None or not node.is_op("Mul", "Div"):
        return False
    operands = [operand for operand in node.inputs if operand is not None]
    if any(operand.is_const for operand in operands):
        return any(ends_fusion(operand) for operand in operands if not operand.is_const)
    return any(_is_root(operand) or _is_gate(operand) for operand in operands)


def _is_root(operand: Operand) -> bool:
    node = operand.producer
    if node is not None and node.is_op("Reciprocal"):
        operand = node.inputs[0] or operand
        node = operand.producer
    return node is not None and node.is_op("Sqrt")


def _is_gate(operand: Operand) -> bool:
    node = operand.producer
    if node is None or not node.is_op("Add"):
        return False
    sources = [each.producer for each in node.inputs if each is not None]
    return any(source is not None and source.is_op("Erf", "Tanh") for source in sources)


def is_dequantized(*operands: Operand | None) -> bool:
    """Whether one of the operands comes out of a DequantizeLinear.

    onnxruntime runs such a node on the integers themselves, with a bias only if that is quantized
    as well.
    """
    producers = [None if each is None else each.producer for each in operands]
    return any(node is not None and node.is_op(*ops.QUANTIZING) for node in producers)


def require_own(hit: Hit, weight: Operand) -> None:
    """Refuse where the old weight stays because others read it, and is large."""
    hit.require(
        weight.has_one_reader or weight.array.nbytes <= SMALL_BYTES,
        "the weight has other readers, so that folding would store it twice",
    )


def folded(
    op: RewriteBuilder, hit: Hit, array: Array, like: Operand, dtype: ir.DataType | None = None
) -> NewConst:
    """A constant of the folded numbers; refuses where they do not fit the dtype any more."""
    wanted = dtype or like.dtype
    if wanted is None:
        raise Unmatched("a constant without a dtype")
    with np.errstate(over="ignore"):
        fits = np.all(np.isfinite(wide_array(array.astype(wanted.numpy()))))
    hit.require(fits, f"the folded weights do not fit {wanted.name}")
    return op.const(array, like=like, dtype=wanted)
