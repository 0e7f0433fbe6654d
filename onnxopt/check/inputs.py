"""What a model wants to be fed, and whether a feed is that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.errors import BadInput

Feed: TypeAlias = Mapping[str, Any]
"""Input name to array, list of arrays (sequence), dict (map) or None (empty optional)."""

Dim: TypeAlias = "int | str | None"
Kind: TypeAlias = Literal["tensor", "sequence", "optional", "optional sequence", "other"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of the graph.

    `dtype` and `shape` are those of the tensor, or of a sequence's elements; the shape is None
    where even the rank is unknown, and its dims are sizes, names or None. `optional` inputs may be
    None. `required` is False for an initializer that a caller may override. Inputs of other types
    (maps, sparse tensors) are `other` and have no dtype.
    """

    name: str
    kind: Kind
    dtype: ir.DataType | None
    shape: tuple[Dim, ...] | None
    required: bool = True

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type as numpy or ml_dtypes has it; object for strings."""
        assert self.dtype is not None
        return np.dtype(self.dtype.numpy())

    @property
    def expected(self) -> str:
        """The type as people write it: float32[batch, 3, 224, 224]."""
        if self.dtype is None:
            return "a value of its declared type"
        dims = "any rank" if self.shape is None else ", ".join(_dim_text(d) for d in self.shape)
        element = "string" if self.dtype is ir.DataType.STRING else self.numpy_dtype.name
        text = f"{element}[{dims}]"
        if "sequence" in self.kind:
            text = f"a list of {text}"
        return f"{text} or None" if "optional" in self.kind else text


def inputs_of(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs in order; initializers that may be overridden come as not required.

    Below IR version 4 every initializer is listed as an input and none may be overridden, so they
    are left out.
    """
    held = model.graph.initializers
    fixed = model.ir_version is not None and model.ir_version < 4
    return tuple(
        _spec(value, required=value.name not in held)
        for value in model.graph.inputs
        if not (fixed and value.name in held)
    )


def checked_feed(feed: Feed, inputs: Sequence[InputSpec], where: str = "") -> Feed:
    """The feed with Python numbers and lists made arrays, known to fit the inputs.

    Raises:
        BadInput: A name, type or shape does not fit; the message names the input and what it takes.
    """
    prefix = f"{where}: " if where else ""
    known = {spec.name: spec for spec in inputs}
    for name in feed:
        if name not in known:
            raise BadInput(
                f"{prefix}the model has no input {name!r}", hint=f"its inputs: {listing(inputs)}"
            )
    for spec in inputs:
        if spec.required and spec.name not in feed and "optional" not in spec.kind:
            raise BadInput(
                f"{prefix}the input {spec.name!r} is missing", hint=f"expected {spec.expected}"
            )
    filled: dict[str, Any] = {
        spec.name: None for spec in inputs if spec.required and "optional" in spec.kind
    }
    return filled | {
        name: _checked_value(value, known[name], prefix) for name, value in feed.items()
    }


def listing(inputs: Sequence[InputSpec]) -> str:
    """The inputs that have to be fed, with their types, in one line."""
    return ", ".join(f"{i.name}: {i.expected}" for i in inputs if i.required) or "none"


def _spec(value: ir.Value, *, required: bool) -> InputSpec:
    kind, element = _kind(value.type)
    shape: tuple[Dim, ...] | None = None
    if value.shape is not None:
        shape = tuple(_dim(dim) for dim in value.shape)
    return InputSpec(value.name or "", kind, element, shape, required)


def _kind(declared: ir.TypeProtocol | None) -> tuple[Kind, ir.DataType | None]:
    if isinstance(declared, ir.TensorType):
        return "tensor", declared.dtype
    if isinstance(declared, ir.SequenceType):
        inner, element = _kind(declared.elem_type)
        return ("sequence", element) if inner == "tensor" else ("other", None)
    if isinstance(declared, ir.OptionalType):
        inner, element = _kind(declared.elem_type)
        if inner == "tensor":
            return "optional", element
        return ("optional sequence", element) if inner == "sequence" else ("other", None)
    return "other", None


def _dim(dim: Any) -> Dim:
    if isinstance(dim, int):
        # Exporters write -1 where they mean "any", which the format does not allow.
        return dim if dim >= 0 else None
    return dim.value or None


def _dim_text(dim: Dim) -> str:
    return "?" if dim is None else str(dim)


def _checked_value(value: Any, spec: InputSpec, prefix: str) -> Any:
    if spec.dtype is None:
        return value
    if value is None:
        if "optional" in spec.kind:
            return None
        raise _misfit(spec, prefix, "None")
    if "sequence" in spec.kind:
        if not isinstance(value, (list, tuple)):
            raise _misfit(spec, prefix, type(value).__name__)
        return [_checked_array(item, spec, prefix) for item in value]
    return _checked_array(value, spec, prefix)


def _checked_array(value: Any, spec: InputSpec, prefix: str) -> np.ndarray[Any, Any]:
    wanted = spec.numpy_dtype
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    else:
        try:
            array = np.asarray(value, wanted)
        except (TypeError, ValueError, OverflowError) as error:
            raise _misfit(spec, prefix, f"{type(value).__name__} ({error})") from error
    if wanted.kind == "O" and array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype.type is np.void and array.dtype.itemsize == wanted.itemsize:
        # numpy saves the element types it lacks as nameless bytes.
        array = array.view(wanted)
    if array.dtype != wanted or not _shape_fits(array.shape, spec.shape):
        raise _misfit(spec, prefix, f"{array.dtype.name}{list(array.shape)}")
    return array


def _shape_fits(shape: tuple[int, ...], declared: tuple[Dim, ...] | None) -> bool:
    if declared is None:
        return True
    return len(shape) == len(declared) and all(
        not isinstance(dim, int) or dim == size for size, dim in zip(shape, declared, strict=True)
    )


def _misfit(spec: InputSpec, prefix: str, got: str) -> BadInput:
    return BadInput(
        f"{prefix}the input {spec.name!r} got {got}",
        hint=f"it takes {spec.expected}; convert the array before it is fed",
    )
