"""What a model must keep through every pass: its interface, the checker's word, its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from onnxopt import io
from onnxopt.passes import shapes

Dims = tuple["int | str | None", ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as declared: name, type as text, dims as int, symbol or None."""

    name: str
    type: str
    shape: Dims | None


@dataclass(frozen=True, slots=True)
class Interface:
    """The declared inputs and outputs of a model, in order, and its metadata: what a user of the
    model relies on besides its numbers."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        """The interface that `model` would be saved with.

        Below IR version 4 initializers are listed as inputs that nobody can feed: they are left
        out.
        """
        listed = (model.ir_version or 4) < 4
        return cls(
            tuple(_input(v) for v in model.graph.inputs if not (listed and v.is_initializer())),
            tuple(_output(value) for value in model.graph.outputs),
            dict(model.metadata_props),
        )

    def breach(self, other: Interface) -> str:
        """How `other` differs, as a sentence; empty where it does not."""
        ports = _ports_differ("input", self.inputs, other.inputs) or _ports_differ(
            "output", self.outputs, other.outputs
        )
        return ports or _metadata_lost(self.metadata, other.metadata)


def checker_complaint(model: ir.Model) -> str:
    """The first line of what onnx.checker (full check) says against the model; empty if nothing."""
    try:
        onnx.checker.check_model(io.skeleton(shapes.declared_copy(model)), full_check=True)
    except Exception as error:  # the checker raises several unrelated classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return ""


def _input(value: ir.Value) -> Port:
    type_, shape = shapes.declared(value)
    kept, now = _dims(shape), _dims(value.shape)
    if kept is not None and now is not None:
        # A name for an unknown dim is a fact; a size that was not declared is a promise broken.
        same_rank = len(kept) == len(now)
        pairs = zip(kept, now, strict=True) if same_rank else ()
        kept = tuple(n if isinstance(n, int) else k for k, n in pairs) if same_rank else now
    return Port(value.name or "", str(value.type or type_), kept)


def _output(value: ir.Value) -> Port:
    type_, shape = shapes.declared(value)
    return Port(value.name or "", str(value.type or type_), _dims(shape))


def _dims(shape: ir.Shape | None) -> Dims | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape.dims)


def _ports_differ(kind: str, wanted: tuple[Port, ...], found: tuple[Port, ...]) -> str:
    names, others = [port.name for port in wanted], [port.name for port in found]
    if names != others:
        gone = [name for name in names if name not in others]
        fresh = [name for name in others if name not in names]
        if gone and fresh:
            return f"the {kind} {gone[0]!r} is now called {fresh[0]!r}"
        if gone:
            return f"the {kind} {gone[0]!r} is gone"
        if fresh:
            return f"the {kind} {fresh[0]!r} is new"
        return f"the order of the {kind}s changed"
    for before, after in zip(wanted, found, strict=True):
        if before.type != after.type:
            return f"the {kind} {before.name!r} changed its type from {before.type} to {after.type}"
        if before.shape != after.shape:
            return (
                f"the {kind} {before.name!r} changed its shape from {_text(before.shape)} to"
                f" {_text(after.shape)}"
            )
    return ""


def _metadata_lost(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    for key, text in wanted.items():
        if key not in found:
            return f"the model's metadata {key!r} is gone"
        if found[key] != text:
            return f"the model's metadata {key!r} changed"
    return ""


def _text(shape: Dims | None) -> str:
    if shape is None:
        return "unknown"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
