"""What the graph tells about its inputs beyond their types: index ranges, constants, known axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from onnxopt import ops

# Ops behind which an element is still the same element, with the input it comes from.
_CARRIERS = frozenset(
    {
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
# Ops that keep the meaning of every axis of their first input.
_AXIS_KEEPERS = frozenset({"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Neg", "Relu", "Sub"})

# (op, input) -> (where the size is, which dim of it): an index must stay below that size.
_INDEXES = {
    ("GatherElements", 1): 0,
    ("ScatterElements", 1): 0,
    ("Gather", 1): 0,
}
# An op's input that says how many, how large or where: small positive numbers are plausible.
_COUNTS = frozenset(
    {
        ("Loop", 0),
        ("ConstantOfShape", 0),
        ("Expand", 1),
        ("Tile", 1),
        ("TopK", 1),
        ("OneHot", 1),
        ("Range", 0),
        ("Range", 1),
        ("Range", 2),
        ("Resize", 3),
        ("Slice", 2),
        ("Slice", 4),
        ("Split", 1),
        ("Trilu", 1),
    }
)
# Ops that read a shape, or that shapes are put together with.
_SHAPE_MAKERS = frozenset({"Concat", "Expand", "Reshape", "Unsqueeze"})
_MAX_DEPTH = 12
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Hint:
    """What is known of one input.

    `limit`: elements index an axis of this size. `constants`: numbers or strings it is compared
    with or looked up among. `count`: it says how many or how large. `shape`: it is the shape that
    a Reshape gives. `rank` and `axes` (axis to size): what its readers need it to have.
    """

    limit: int | None = None
    constants: tuple[Any, ...] = ()
    count: bool = False
    shape: bool = False
    rank: int | None = None
    axes: dict[int, int] = field(default_factory=dict)

    def __or__(self, other: Hint) -> Hint:
        limits = [limit for limit in (self.limit, other.limit) if limit is not None]
        return Hint(
            min(limits, default=None),
            tuple(dict.fromkeys((*self.constants, *other.constants))),
            self.count or other.count,
            self.shape or other.shape,
            other.rank if self.rank is None else self.rank,
            {**other.axes, **self.axes},
        )


def hints(model: ir.Model) -> dict[str, Hint]:
    """A hint for each input of the graph, by name."""
    return {value.name or "": _hint(value, model) for value in model.graph.inputs}


def sizes_in(model: ir.Model) -> tuple[int, ...]:
    """The sizes that constant shapes in the graph speak of, the most frequent first.

    A tracer writes the sizes of its example down where the model should compute them, and declares
    the dim dynamic all the same.
    """
    found: Counter[int] = Counter()
    for node in model.graph.all_nodes():
        if ops.is_standard(node, *_SHAPE_MAKERS):
            elements = (n for value in node.inputs for n in _elements(value))
            found.update(n for n in elements if isinstance(n, int) and 1 < n <= _LARGEST)
    return tuple(size for size, _ in sorted(found.items(), key=lambda each: (-each[1], each[0])))


def _hint(value: ir.Value, model: ir.Model) -> Hint:
    found = Hint()
    for node, index in _readers(value, model, frozenset(_CARRIERS)):
        found |= _about_elements(node, index)
    rank = len(value.shape) if value.shape is not None else None
    for node, index in _readers(value, model, _AXIS_KEEPERS):
        found |= _about_axes(node, index)
    if rank is not None and found.rank not in (None, rank):
        return replace(found, axes={})
    return found


def _readers(
    value: ir.Value, model: ir.Model, carriers: frozenset[str]
) -> Iterator[tuple[ir.Node, int]]:
    """Every reader of the value, also behind `carriers`, in bodies and in functions."""
    waiting, seen = [(value, 0)], {id(value)}
    while waiting:
        current, depth = waiting.pop()
        for node, index in current.uses():
            yield node, index
            if depth >= _MAX_DEPTH:
                continue
            for onward in _onward(node, index, model, carriers):
                if id(onward) not in seen:
                    seen.add(id(onward))
                    waiting.append((onward, depth + 1))


def _onward(
    node: ir.Node, index: int, model: ir.Model, carriers: frozenset[str]
) -> Iterator[ir.Value]:
    if ops.is_standard(node, *carriers) and (index == 0 or node.op_type == "Concat"):
        yield from node.outputs
    elif ops.is_standard(node, "Loop", "Scan"):
        for body in ops.subgraphs(node):
            if index < len(body.inputs):
                yield body.inputs[index]
    else:
        function = model.functions.get(node.op_identifier())
        if function is not None and index < len(function.inputs):
            yield function.inputs[index]


def _about_elements(node: ir.Node, index: int) -> Hint:
    place = (node.op_type, index)
    if not ops.is_standard(node):
        return _about_labels(node)
    if place in _COUNTS:
        return Hint(count=True)
    if place == ("Reshape", 1):
        return Hint(shape=True)
    if place in _INDEXES:
        size = _size(node.inputs[_INDEXES[place]], _integer(node, "axis", 0))
        return Hint(limit=size)
    if place == ("OneHot", 0):
        return Hint(limit=_scalar(node.inputs[1]))
    if node.op_type == "Equal":
        return Hint(constants=_elements(node.inputs[1 - index]))
    return Hint()


def _about_labels(node: ir.Node) -> Hint:
    """The words an encoder of ai.onnx.ml knows."""
    for name in ("keys_strings", "cats_strings", "classes_strings", "string_vocabulary"):
        attribute = node.attributes.get(name)
        if attribute is not None and not attribute.is_ref() and node.domain == "ai.onnx.ml":
            return Hint(constants=tuple(attribute.as_strings()[:64]))
    return Hint()


def _about_axes(node: ir.Node, index: int) -> Hint:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    shape = _shape(weight)
    if node.domain == "ai.onnx.ml":
        return _about_features(node)
    if shape is None or index != 0 or not ops.is_standard(node):
        return Hint()
    if node.op_type == "Conv" and len(shape) > 2:
        return Hint(rank=len(shape), axes={1: shape[1] * _integer(node, "group", 1)})
    if node.op_type == "ConvTranspose" and len(shape) > 2:
        return Hint(rank=len(shape), axes={1: shape[0]})
    if node.op_type == "MatMul" and len(shape) == 2:
        return Hint(axes={-1: shape[0]})
    if node.op_type == "Gemm" and not _integer(node, "transA", 0):
        return Hint(rank=2, axes={1: shape[1 if _integer(node, "transB", 0) else 0]})
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return Hint(rank=3, axes={2: shape[2]})
    if node.op_type in ("BatchNormalization", "InstanceNormalization"):
        return Hint(axes={1: shape[0]})
    if node.op_type == "LayerNormalization" and len(shape) == 1:
        return Hint(axes={-1: shape[0]})
    return Hint()


def _about_features(node: ir.Node) -> Hint:
    def numbers(name: str) -> tuple[Any, ...]:
        attribute = node.attributes.get(name)
        return () if attribute is None or attribute.is_ref() else tuple(attribute.value)

    if node.op_type == "Scaler" and len(numbers("offset")) > 1:
        return Hint(rank=2, axes={1: len(numbers("offset"))})
    if node.op_type.startswith("TreeEnsemble") and numbers("nodes_featureids"):
        return Hint(rank=2, axes={1: max(numbers("nodes_featureids")) + 1})
    return Hint()


def _shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    tensor = value.const_value or ops.constant(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def _size(value: ir.Value | None, axis: int) -> int | None:
    shape = _shape(value)
    if not shape or not -len(shape) <= axis < len(shape):
        return None
    return shape[axis] or None


def _elements(value: ir.Value | None) -> tuple[Any, ...]:
    tensor = ops.constant(value)
    if tensor is None or tensor.size > 64 or tensor.dtype == ir.DataType.UNDEFINED:
        return ()
    return tuple(tensor.numpy().reshape(-1).tolist())


def _scalar(value: ir.Value | None) -> int | None:
    elements = _elements(value)
    return int(elements[0]) if len(elements) == 1 else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()
