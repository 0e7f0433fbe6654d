"""Gives dynamic dims a size on the user's word: --input-shape and --dim."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxopt.errors import BadInput
from onnxopt.passes.outline import is_name
from onnxopt.passes.shapes import DECLARED, Declaration


def bind(
    model: ir.Model, input_shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int]
) -> None:
    """Fix dims of the graph inputs in place, and every declared dim that goes by the same name.

    Args:
        model: Changed in place.
        input_shapes: The whole shape of an input, by the input's name.
        dims: The size of a symbolic dim, by its name.

    Raises:
        BadInput: An input or dim that does not exist, a wrong rank, a size below one, or sizes that
            contradict the model or each other.
    """
    sizes: dict[str, int] = {}
    for name, size in dims.items():
        _check_known("dim", name, _symbols(model.graph.inputs), "--dim")
        _check_size(f"dim {name!r}", size)
        sizes[name] = size
    shapes: dict[ir.Value, list[int]] = {}
    for name, shape in input_shapes.items():
        value = _input(model, name)
        shapes[value] = _bind_input(value, shape, sizes)
    for value, wanted in shapes.items():
        _annotate(value, ir.Shape(wanted))
    _rename(model, sizes)


def _input(model: ir.Model, name: str) -> ir.Value:
    values = {value.name or "": value for value in model.graph.inputs}
    _check_known("input", name, values, "--input-shape")
    value = values[name]
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        raise BadInput(
            f"the input {name!r} is a {value.type}, not a tensor",
            hint="only tensors have a shape; leave it out of --input-shape",
        )
    return value


def _bind_input(value: ir.Value, shape: Sequence[int], sizes: dict[str, int]) -> list[int]:
    """The new shape of one input; `sizes` gains what it says about named dims."""
    for size in shape:
        _check_size(f"the shape of input {value.name!r}", size)
    declared = list(value.shape) if value.shape is not None else [ir.SymbolicDim(None)] * len(shape)
    if len(declared) != len(shape):
        raise BadInput(
            f"the input {value.name!r} has {len(declared)} dims, and --input-shape gives"
            f" {len(shape)}",
            hint=f"its declared shape is {value.shape}",
        )
    for old, size in zip(declared, shape, strict=True):
        if isinstance(old, int):
            if old > 0 and old != size:
                raise BadInput(
                    f"the input {value.name!r} has the shape {value.shape}, which"
                    f" {_text(shape)} contradicts",
                    hint="--input-shape can fix dynamic dims, not change fixed ones",
                )
        elif old.value is not None:
            _agree(old.value, size, sizes)
    return list(shape)


def _agree(name: str, size: int, sizes: dict[str, int]) -> None:
    if not is_name(name) and name not in sizes:
        # A name such as "?" says nothing about the other dims that have it.
        return
    if sizes.setdefault(name, size) != size:
        raise BadInput(
            f"the dim {name!r} can't be {sizes[name]} and {size} at once",
            hint="dims of one name are equal; give them one size",
        )


def _check_known(kind: str, name: str, known: Iterable[str], option: str) -> None:
    names = sorted(set(known))
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    hint = f"did you mean {close[0]!r}?" if close else f"{option} takes one of: {listed}"
    if not names:
        hint = f"the model has no {kind} to fix"
    raise BadInput(f"the model has no {kind} called {name!r}", hint=hint)


def _check_size(what: str, size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadInput(f"{what} can't be {size!r}", hint="give a whole number of 1 or more")


def _symbols(values: Iterable[ir.Value]) -> Iterator[str]:
    for value in values:
        for dim in value.shape or ():
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                yield dim.value


def _rename(model: ir.Model, sizes: Mapping[str, int]) -> None:
    """Put the sizes in the place of the names, in every annotation of the model."""
    if not sizes:
        return
    graphs = [model.graph, *model.graph.subgraphs()]
    values = [
        value
        for graph in graphs
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs))
    ]
    for value in (*values, *model.graph.outputs):
        if value.shape is not None:
            _annotate(value, _sized(value.shape, sizes))
    outputs: dict[str | None, Declaration] | None = model.graph.meta.get(DECLARED)
    for name, (type_, shape) in (outputs or {}).items():
        if outputs is not None and shape is not None:
            outputs[name] = (type_, _sized(shape, sizes))


def _annotate(value: ir.Value, shape: ir.Shape) -> None:
    value.shape = shape
    kept: Declaration | None = value.meta.get(DECLARED)
    if kept is not None:
        value.meta[DECLARED] = (kept[0], shape.copy())


def _sized(shape: ir.Shape, sizes: Mapping[str, int]) -> ir.Shape:
    dims: list[int | ir.SymbolicDim] = []
    for dim in shape:
        known = None if isinstance(dim, int) else sizes.get(dim.value or "")
        dims.append(dim if known is None else known)
    return ir.Shape(dims, [shape.get_denotation(index) for index in range(len(dims))])


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
