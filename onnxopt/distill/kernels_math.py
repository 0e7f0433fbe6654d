"""Kernels for arithmetic, comparisons, reductions, matrix products and activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as functional

from onnxopt.distill.kernels import DTYPES, Call, Tensor, aligned, ints, kernel

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Mean": torch.add,
    "Min": torch.minimum,
    "Sum": torch.add,
}


@kernel(*_UNARY)
def _unary(call: Call, x: Tensor) -> Tensor:
    return _UNARY[call.op_type](x)


@kernel("IsInf")
def _is_inf(call: Call, x: Tensor) -> Tensor:
    below = torch.isneginf(x) if call.attr("detect_negative", 1) else torch.zeros_like(x) > 0
    return below | torch.isposinf(x) if call.attr("detect_positive", 1) else below


@kernel(*_BINARY)
def _binary(call: Call, left: Tensor, right: Tensor) -> Tensor:
    return _BINARY[call.op_type](*aligned(left, _placed(call, left, right)))


def _placed(call: Call, left: Tensor, right: Tensor) -> Tensor:
    """The right operand where opsets before 7 put it: its first axis under `axis` of the left."""
    if call.opset >= 7 or not call.attr("broadcast", 0) or call.attr("axis") is None:
        return right
    behind = left.dim() - call.attr("axis") % left.dim() - right.dim()
    return right.reshape(*right.shape, *[1] * behind)


@kernel("Div")
def _div(call: Call, left: Tensor, right: Tensor) -> Tensor:
    left, right = aligned(left, _placed(call, left, right))
    if left.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


@kernel("Mod")
def _mod(call: Call, left: Tensor, right: Tensor) -> Tensor:
    left, right = aligned(left, right)
    if call.attr("fmod", 0):
        return torch.fmod(left, right)
    found = torch.remainder(left, right)
    if not found.is_floating_point():
        return found
    # A remainder of zero has the sign of the divisor.
    return torch.where(found == 0, torch.copysign(found, right), found)


@kernel("Pow")
def _pow(call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    base, exponent = aligned(base, exponent)
    return torch.pow(base, exponent.to(base.dtype)).to(base.dtype)


@kernel(*_MANY)
def _many(call: Call, *inputs: Tensor) -> Tensor:
    total = reduce(_MANY[call.op_type], aligned(*inputs))
    return total / len(inputs) if call.op_type == "Mean" else total


@kernel("Where")
def _where(call: Call, condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(*aligned(condition, yes, no))


@kernel("Clip")
def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = (
        call.attr("min") if low is None or not low.numel() else low.item(),
        call.attr("max") if high is None or not high.numel() else high.item(),
    )
    if None not in bounds and bounds[0] <= bounds[1] and x.is_floating_point():
        # The gradient of clamp takes several times as long.
        return functional.hardtanh(x, *bounds)
    return x if bounds == (None, None) else torch.clamp(x, *bounds)


@kernel("LeakyRelu")
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.attr("alpha", 0.01))


@kernel("PRelu")
def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    if call.opset < 7 and slope.dim() == 1:
        # A slope for each channel.
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


@kernel("Elu", "Celu", "Selu", "ThresholdedRelu")
def _exponential(call: Call, x: Tensor) -> Tensor:
    if call.op_type == "Selu":
        alpha, gamma = call.attr("alpha", 1.6732632), call.attr("gamma", 1.0507010)
        return gamma * functional.elu(x, alpha)
    alpha = call.attr("alpha", 1.0)
    if call.op_type == "ThresholdedRelu":
        return torch.where(x > alpha, x, torch.zeros_like(x))
    return functional.elu(x, alpha) if call.op_type == "Elu" else functional.celu(x, alpha)


@kernel("HardSigmoid")
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(x * call.attr("alpha", 0.2) + call.attr("beta", 0.5), 0.0, 1.0)


@kernel("Gelu")
@kernel("Gelu", domain="com.microsoft")
def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.text("approximate", "none"))


@kernel("FastGelu", domain="com.microsoft")
def _fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@kernel("QuickGelu", domain="com.microsoft")
def _quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.attr("alpha", 1.702) * x)


@kernel("Swish")
def _swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.attr("alpha", 1.0) * x)


@kernel("Softmax", "LogSoftmax")
def _softmax(call: Call, x: Tensor) -> Tensor:
    compute = torch.softmax if call.op_type == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return compute(x, dim=call.attr("axis", -1))
    axis = call.attr("axis", 1) % max(x.dim(), 1)
    rows = x.reshape(x.shape[:axis].numel(), -1)
    return compute(rows, dim=-1).reshape(x.shape)


@kernel("MatMul")
def _matmul(call: Call, left: Tensor, right: Tensor) -> Tensor:
    return torch.matmul(left, right)


@kernel("Gemm")
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.transpose(0, 1) if call.attr("transA", 0) else a
    right = b.transpose(0, 1) if call.attr("transB", 0) else b
    product = torch.matmul(left, right) * call.attr("alpha", 1.0)
    return product if c is None else product + c * call.attr("beta", 1.0)


@kernel("Einsum")
def _einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.text("equation"), *inputs)


@kernel("Cast")
def _cast(call: Call, x: Tensor) -> Tensor:
    from onnx_ir import DataType

    kind = DTYPES.get(DataType(call.attr("to")))
    if kind is None:
        raise call.refuse(f"torch has no element type {DataType(call.attr('to')).name}")
    return x.to(kind)


@kernel("CastLike")
def _cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


def _axes(call: Call, x: Tensor, axes: Tensor | None) -> list[int] | None:
    """The axes to reduce; None for a reduction that does nothing."""
    given = ints(axes) if axes is not None else list(call.attr("axes", ()))
    if given:
        return [axis % x.dim() for axis in given]
    return None if call.attr("noop_with_empty_axes", 0) else list(range(x.dim()))


_REDUCE: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": lambda x, axes, keep: _product(x, axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


@kernel(*_REDUCE)
def _reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found = _axes(call, x, axes)
    if not found:
        return x
    return _REDUCE[call.op_type](x, found, bool(call.attr("keepdims", 1))).to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


@kernel("ArgMax", "ArgMin")
def _arg_extreme(call: Call, x: Tensor) -> Tensor:
    axis, keep = call.attr("axis", 0), bool(call.attr("keepdims", 1))
    find = torch.argmax if call.op_type == "ArgMax" else torch.argmin
    if not call.attr("select_last_index", 0):
        return find(x, dim=axis, keepdim=keep)
    return x.shape[axis] - 1 - find(x.flip(axis), dim=axis, keepdim=keep)


@kernel("TopK")
def _top_k(call: Call, x: Tensor, k: Tensor | None = None) -> Any:
    count = ints(k)[0] if k is not None else call.attr("k")
    axis = call.attr("axis", -1)
    # Of equal elements the first one comes first, which torch.topk does not promise.
    found = torch.sort(x, dim=axis, descending=bool(call.attr("largest", 1)), stable=True)
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)


@kernel("CumSum")
def _cum_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    along = ints(axis)[0]
    turned = x.flip(along) if call.attr("reverse", 0) else x
    total = turned.cumsum(along)
    total = total - turned if call.attr("exclusive", 0) else total
    return total.flip(along) if call.attr("reverse", 0) else total


@kernel("Scaler", domain="ai.onnx.ml")
def _scaler(call: Call, x: Tensor) -> Tensor:
    offset, scale = (x.new_tensor(call.attr(name), dtype=torch.float32) for name in _SCALER)
    return (x.to(torch.float32) - offset) * scale


_SCALER = ("offset", "scale")


@kernel("Identity")
def _identity(call: Call, x: Any) -> Any:
    return x


@kernel("Dropout")
def _dropout(
    call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> Any:
    if training is not None and bool(training):
        raise call.refuse("it is in training mode")
    return x if call.outputs < 2 else (x, torch.ones_like(x, dtype=torch.bool))
