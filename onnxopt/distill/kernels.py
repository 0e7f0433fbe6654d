"""What each ONNX operator computes, in torch: a table of kernels, and what a kernel is told.

The modules named in `_HOMES` fill the table. A kernel takes a `Call` and the inputs (None for one
left out) and gives a tensor, or a tuple for several outputs. Half precision is computed in float32.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from onnxopt.errors import BadModel

Tensor: TypeAlias = "torch.Tensor"
Kernel: TypeAlias = Callable[..., Any]
Function = TypeVar("Function", bound=Kernel)

_KERNELS: dict[tuple[str, str], Kernel] = {}
_HOMES = (
    "kernels_math",
    "kernels_shape",
    "kernels_window",
    "kernels_norm",
    "kernels_resize",
    "kernels_recurrent",
    "kernels_attention",
    "kernels_quantized",
)

DTYPES: Mapping[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float32,
    ir.DataType.BFLOAT16: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
}
"""What torch computes with for each element type."""


class Untaught(BadModel):
    """An operator is used in a way that no kernel computes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node as a kernel sees it; `outputs` counts those in use, `kinds` are its inputs' types."""

    name: str
    op_type: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: int
    kinds: tuple[ir.DataType | None, ...] = ()

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default where the node has none."""
        return self.attributes.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        found = self.attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    def refuse(self, why: str) -> Untaught:
        """The error to raise for a use that the kernel does not compute."""
        return Untaught(
            f"the node {self.name!r} ({self.op_type}) can't be trained through: {why}",
            hint="optimize the model first, or take it out of the part that is taught",
        )


def kernel(*op_types: str, domain: str = "") -> Callable[[Function], Function]:
    """Enter a function into the table, for the operators of these types."""

    def enter(function: Function) -> Function:
        for op_type in op_types:
            _KERNELS[domain, op_type] = function
        return function

    return enter


def find(domain: str, op_type: str) -> Kernel | None:
    """The kernel of an operator, or None."""
    _fill()
    return _KERNELS.get(("" if domain == "ai.onnx" else domain, op_type))


@functools.cache
def _fill() -> None:
    for home in _HOMES:
        importlib.import_module(f"onnxopt.distill.{home}")


def ints(tensor: Tensor | None) -> list[int]:
    """The numbers of a tensor that says a shape, axes or sizes."""
    if tensor is None:
        return []
    return [int(number) for number in tensor.reshape(-1).tolist()]


def aligned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: shapes are computed on the CPU, data where the weights lie."""
    home = next((each.device for each in tensors if each.device.type != "cpu"), None)
    return tensors if home is None else tuple(each.to(home) for each in tensors)


def from_numpy(array: Any) -> Tensor:
    """A tensor with a copy of the array, in the type that torch computes it in."""
    given = np.asarray(array)
    kind = DTYPES.get(ir.DataType.from_numpy(given.dtype))
    if kind is None:
        raise BadModel(
            f"torch has no element type for {given.dtype.name}", hint="export the model with floats"
        )
    plain = np.array(given, np.float32) if kind is torch.float32 else np.array(given)
    if plain.dtype.kind == "u" and plain.itemsize in (2, 4):
        plain = plain.astype(np.int64)
    elif plain.dtype.kind not in "biuf":
        plain = plain.astype(np.int8)
    return torch.from_numpy(np.ascontiguousarray(plain).reshape(given.shape)).to(kind)
