"""What a walk over a graph finds out: the layout of each axis, and who writes and sums channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.axes import Tokens
from onnxopt.prune.balance import Balance
from onnxopt.prune.regroup import Dim
from onnxopt.prune.targets import Sources
from onnxopt.rewrite.flows import Layout, fixed
from onnxopt.rewrite.hit import OPSETS, Unmatched

Place = tuple[ir.Value, int]
"""A value and an axis of it, not negative."""


CONVERTING = frozenset({"Cast", "DequantizeLinear", "Identity"})
"""Between a stored weight and its user; they leave the axes as they are."""


PARTS = "parts"
"""The kind of what was never a channel: gates, the three of query, key and value."""


@dataclass(frozen=True, slots=True)
class Use:
    """A node that writes or sums over an axis, with the axes of its weight and bias, if any."""

    node: ir.Node
    place: Place
    weight: Place | None
    bias: Place | None = None
    index: int = 0
    """Which input a node sums over."""


@dataclass(slots=True)
class Walk:
    """What is known after a walk: the layout of each axis that was asked for or given."""

    tokens: Tokens = field(default_factory=Tokens)
    layouts: dict[ir.Value, dict[int, Layout]] = field(default_factory=dict)
    writers: list[Use] = field(default_factory=list)
    readers: list[Use] = field(default_factory=list)
    sources: Sources = field(default_factory=Sources)
    loose: bool = False
    """Whether the groups of convolutions may each lose channels of their own."""
    balances: list[Balance] = field(default_factory=list)
    misfits: list[ir.Node] = field(default_factory=list)
    """Grouped convolutions whose groups do not line up with what they read."""

    def layout(self, value: ir.Value, axis: int) -> Layout:
        """The layout of an axis; a constant gets channels of its own when it is first asked for."""
        axes = self.layouts.setdefault(value, {})
        if axis not in axes:
            size = self.sizes(value)[axis]
            if ops.is_constant(value) and size is not None and size > 1:
                axes[axis] = self.tokens.fresh(size)
            else:
                axes[axis] = fixed(size, self._why_fixed(value))
        return axes[axis]

    def sizes(self, value: ir.Value) -> list[int | None]:
        """The sizes of a value's axes; what a body is given has those of what is given to it.

        Raises Unmatched where the rank is not known.
        """
        known = self.layouts.get(value)
        if known and value.shape is None and not ops.is_constant(value):
            return [known[axis].size for axis in sorted(known)]
        return sizes_of(value)

    def _why_fixed(self, value: ir.Value) -> str:
        if value.is_graph_input() and value.is_initializer():
            return f"a caller may override {value.name!r}: freezing the inputs makes it a constant"
        if value.is_graph_input():
            return f"they are the model's input {value.name!r}"
        return f"{value.name!r} has a fixed number of them"


def sizes_of(value: ir.Value) -> list[int | None]:
    """The sizes of a value's axes, None where dynamic. Raises Unmatched without a known rank."""
    tensor = ops.constant(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is None or isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        raise Unmatched("a rank is not known; --input-shape makes it known")
    return [dim if isinstance(dim, int) else None for dim in shape]


def dims_of(value: ir.Value) -> list[Dim]:
    """The dims of a value with their names. Raises Unmatched without a known rank."""
    named_dims = [] if value.shape is None else list(value.shape)
    return (
        [
            size if size is not None else getattr(dim, "value", None)
            for size, dim in zip(sizes_of(value), named_dims, strict=False)
        ]
        if named_dims
        else list(sizes_of(value))
    )


def is_weight(value: ir.Value) -> bool:
    """Whether a value is a constant, or filled with one number in a shape that can be changed."""
    node = value.producer()
    filled = node is not None and ops.is_standard(node, "ConstantOfShape")
    return ops.is_constant(value) or (filled and ops.is_constant(node.inputs[0]))  # type: ignore[union-attr]


def is_stored(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or one that is only converted before it is used."""
    while value is not None and not is_weight(value):
        node = value.producer()
        value = None if node is None or node.op_type not in CONVERTING else node.inputs[0]
    return value is not None


def name_of(node: ir.Node) -> str:
    """The name of a node, that of its first output where it has none."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or ""


def named(node: ir.Node) -> str:
    """The node as messages call it."""
    return f"{node.op_type} {name_of(node)!r}"


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, in its bodies too."""
    yield from (value for value in node.inputs if value is not None)
    for body in ops.subgraphs(node):
        for inner in body.all_nodes():
            yield from (value for value in inner.inputs if value is not None)
        yield from body.outputs


def tell_opsets(graph: ir.Graph) -> None:
    """Let the nodes in the bodies of a graph know which opsets hold there."""
    for body in graph.subgraphs():
        body.meta[OPSETS] = graph.opset_imports
