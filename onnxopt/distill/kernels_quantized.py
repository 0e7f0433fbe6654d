"""QuantizeLinear and DequantizeLinear, with a gradient that goes straight through the rounding.

Codes are kept as floats that hold whole numbers. Inside the range of the codes the gradient is that
of the identity, outside of it zero (Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from onnxopt.distill.kernels import Call, Tensor, aligned, kernel

BOUNDS = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}
"""The smallest and the largest code of each type."""


def rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers, halves to even, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


def along(call: Call, x: Tensor, parameter: Tensor) -> Tensor:
    """A scale or zero point, shaped to be broadcast over `x`."""
    if parameter.numel() == 1:
        return parameter.reshape(()).to(x.device)
    axis = call.attr("axis", 1)
    block = call.attr("block_size", 0)
    if block:
        return (
            parameter.to(x.device).repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
        )
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.to(x.device).reshape(shape)


@kernel("QuantizeLinear")
@kernel("QuantizeLinear", domain="com.microsoft")
def _quantize(call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    kind = call.kinds[2] if len(call.kinds) > 2 else None
    if zero_point is None:
        kind = ir.DataType(call.attr("output_dtype", 0) or ir.DataType.UINT8)
    if kind not in BOUNDS:
        raise call.refuse(f"its codes are {'unknown' if kind is None else kind.name}")
    codes = rounded(x / along(call, x, scale))
    if zero_point is not None:
        codes = codes + along(call, x, zero_point).to(codes.dtype)
    return torch.clamp(codes, *BOUNDS[kind])


@kernel("DequantizeLinear")
@kernel("DequantizeLinear", domain="com.microsoft")
def _dequantize(
    call: Call, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    codes, scale = aligned(codes, scale)
    numbers = codes.to(scale.dtype)
    if zero_point is not None:
        numbers = numbers - along(call, codes, zero_point).to(scale.dtype)
    return numbers * along(call, codes, scale)
