"""What is known of every value before the model runs: dims and elements, by number or by name.

One walk over the graphs in order carries both, because each needs the other: a Shape turns dims
into elements, a Reshape turns elements into dims. Values of bodies see what their outer scope
knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.symbols import Dim, Names, symbol

Dims = tuple[Dim, ...]
Annotation = tuple[int | str | None, ...]

MOST_ELEMENTS = 512
"""Integer tensors up to this many elements are followed element by element."""

_FOLLOWED = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of a small integer or boolean tensor, as an object array of `Dim`s."""

    array: np.ndarray[Any, np.dtype[Any]]
    dtype: ir.DataType

    @property
    def known(self) -> bool:
        """Whether every element is a number."""
        return all(isinstance(item, int) for item in self.array.flat)

    def numbers(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The elements in their own dtype; None if one is unknown or does not fit the dtype."""
        if not self.known:
            return None
        try:
            return self.array.astype(self.dtype.numpy())
        except OverflowError:
            return None


@dataclass(slots=True)
class Facts:
    """What the walk has found so far. A value without an entry has an unknown rank or elements."""

    names: Names = field(default_factory=Names)
    dims: dict[ir.Value, Dims] = field(default_factory=dict)
    elements: dict[ir.Value, Elements] = field(default_factory=dict)
    annotated: Mapping[ir.Value, Annotation] = field(default_factory=dict)
    """What another inference has found; a None in it is a dim that nothing is known of."""

    def copy(self) -> Facts:
        """Facts that can be added to without changing these; names stay shared."""
        return Facts(self.names, dict(self.dims), dict(self.elements), self.annotated)

    def dims_of(self, value: ir.Value | None) -> Dims | None:
        """The dims of the value, or None if its rank is unknown."""
        if value is None:
            return None
        found = self.dims.get(value)
        if found is None:
            tensor = ops.constant(value)
            if tensor is not None:
                found = tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
                self.dims[value] = found
        return found

    def elements_of(self, value: ir.Value | None) -> Elements | None:
        """The elements of the value if it is a small integer or boolean tensor of known shape."""
        if value is None:
            return None
        found = self.elements.get(value)
        if found is None:
            found = self._constant_elements(value)
            if found is None and value.producer() is None:
                found = named_elements(value, self)
            if found is not None:
                self.elements[value] = found
        return found

    def merge(self, value: ir.Value, dims: Dims | None) -> None:
        """Join what a rule found with what the value is annotated with; numbers win."""
        annotated = self.annotated.get(value)
        if dims is not None and (annotated is None or len(annotated) != len(dims)):
            # Where the two disagree about the rank, the rule knows more of the other values.
            self.dims[value] = dims
        elif annotated is not None and dims is not None:
            self.dims[value] = tuple(
                known if isinstance(known, int) else found
                for known, found in zip(annotated, dims, strict=True)
            )
        elif annotated is not None and value not in self.dims:
            self.dims[value] = tuple(self._dim(dim) for dim in annotated)

    def _dim(self, dim: int | str | None) -> Dim:
        if isinstance(dim, int):
            return dim
        return self.names.fresh() if dim is None else symbol(dim)

    def _constant_elements(self, value: ir.Value) -> Elements | None:
        tensor = ops.constant(value)
        if tensor is None or tensor.dtype not in _FOLLOWED or tensor.size > MOST_ELEMENTS:
            return None
        return Elements(tensor.numpy().astype(object), tensor.dtype)


@dataclass(frozen=True, slots=True)
class Place:
    """A node with what is known of its inputs: what a rule reads."""

    node: ir.Node
    facts: Facts
    opset: int

    def input(self, index: int) -> ir.Value | None:
        """The input at `index`, None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def dims(self, index: int) -> Dims | None:
        """The dims of an input."""
        return self.facts.dims_of(self.input(index))

    def rank_known(self, index: int) -> Dims:
        """The dims of an input.

        Raises:
            Unknown: Not even their number is known.
        """
        found = self.dims(index)
        if found is None:
            raise Unknown("rank")
        return found

    def elements(self, index: int) -> Elements | None:
        """The elements of an input."""
        return self.facts.elements_of(self.input(index))

    def integers(self, index: int) -> list[int] | None:
        """The elements of an input as numbers, in a flat list."""
        found = self.elements(index)
        if found is None or not found.known:
            return None
        return [int(item) for item in found.array.flat]

    def items(self, index: int) -> list[Dim] | None:
        """The elements of an input, numbers or names, in a flat list."""
        found = self.elements(index)
        return None if found is None else list(found.array.flat)

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute.

        Raises:
            Unknown: The attribute refers to one of the function around it.
        """
        found = self._attribute(name)
        return default if found is None else found.as_int()

    def ints_attribute(self, name: str) -> list[int] | None:
        """An attribute with a list of integers."""
        found = self._attribute(name)
        return None if found is None else list(found.as_ints())

    def text_attribute(self, name: str, default: str) -> str:
        """A text attribute."""
        found = self._attribute(name)
        return default if found is None else found.as_string()

    def axes(self, index: int) -> list[int] | None:
        """The axes of a node that takes them as an attribute or, in later opsets, as an input."""
        found = self.ints_attribute("axes")
        return self.integers(index) if found is None else found

    def _attribute(self, name: str) -> ir.Attr | None:
        found = self.node.attributes.get(name)
        if found is not None and found.is_ref():
            raise Unknown(name)
        return found


class Unknown(Exception):
    """A rule needs something that is not known."""


DimsRule = Callable[[Place], "list[Dims | None]"]
ElementsRule = Callable[[Place], "list[Elements | None]"]


def roots(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The main graph and the functions: what has opset imports of its own."""
    return [model.graph, *model.functions.values()]


def scopes(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """Every graph of the model: bodies before the graph that holds them, functions last."""
    yield from within(model.graph)
    for function in model.functions.values():
        yield from within(function)


def within(graph: ir.Graph | ir.Function) -> Iterator[ir.Graph | ir.Function]:
    """A graph and its bodies, inner ones first."""
    for node in graph:
        for body in ops.subgraphs(node):
            yield from within(body)
    yield graph


def named_elements(value: ir.Value, facts: Facts) -> Elements | None:
    """A name for each element of a small integer tensor that the model computes from its data."""
    dims = facts.dims.get(value)
    if value.dtype not in _FOLLOWED or dims is None or len(dims) > 1:
        return None
    sizes = [dim for dim in dims if isinstance(dim, int) and 0 <= dim <= 16]
    if len(sizes) != len(dims):
        return None
    array = np.empty(tuple(sizes), dtype=object)
    for index in np.ndindex(array.shape):
        array[index] = facts.names.fresh(natural=value.dtype == ir.DataType.BOOL)
    return Elements(array, value.dtype)
