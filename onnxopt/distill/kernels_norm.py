"""Kernels that normalize; statistics that a model has learned stay as they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional

from onnxopt.distill.kernels import Call, Tensor, kernel


@kernel("BatchNormalization")
def _batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if call.attr("training_mode", 0):
        raise call.refuse("it is in training mode")
    epsilon = call.attr("epsilon", 1e-5)
    return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)


@kernel("InstanceNormalization")
def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=call.attr("epsilon", 1e-5))


@kernel("GroupNormalization")
def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.attr("num_groups")
    if call.opset < 21 and len(scale) == groups != x.shape[1]:
        # Before opset 21 a group has one scale and one bias.
        repeats = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return functional.group_norm(x, groups, scale, bias, call.attr("epsilon", 1e-5))


@kernel("LayerNormalization")
def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axes = list(range(call.attr("axis", -1) % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + call.attr("epsilon", 1e-5))
    result = centred * inverse * scale
    result = result if bias is None else result + bias
    return result if call.outputs < 2 else (result, mean, inverse)


@kernel("SkipLayerNormalization", domain="com.microsoft")
def _skip_layer_norm(
    call: Call,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    total = x + skip if bias is None else x + skip + bias
    epsilon = call.attr("epsilon", 1e-12)
    if call.outputs > 1:
        raise call.refuse("its statistics are asked for")
    return functional.layer_norm(total, total.shape[-1:], scale, beta, epsilon)


@kernel("RMSNormalization")
@kernel("SimplifiedLayerNormalization")
def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(call.attr("axis", -1) % x.dim(), x.dim()))
    power = x.square().mean(axes, keepdim=True)
    return x * torch.rsqrt(power + call.attr("epsilon", 1e-5)) * scale


@kernel("LpNormalization")
def _lp_norm(call: Call, x: Tensor) -> Tensor:
    return functional.normalize(x, p=call.attr("p", 2), dim=call.attr("axis", -1), eps=1e-30)


@kernel("LRN")
def _lrn(call: Call, x: Tensor) -> Tensor:
    size = call.attr("size")
    alpha, beta, bias = call.attr("alpha", 1e-4), call.attr("beta", 0.75), call.attr("bias", 1.0)
    behind = [0, 0] * (x.dim() - 2)
    squares = functional.pad(x.square(), [*behind, (size - 1) // 2, size - 1 - (size - 1) // 2])
    total = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * total) ** beta
