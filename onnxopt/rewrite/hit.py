"""What a rule sees of a match: operands, nodes, and the two ways to say no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import ops

OPSETS = "onnxopt.opsets"
"""The key in a body graph's meta under which the engine leaves the opsets that hold there."""


class Refused(Exception):
    """The rule looked closely and does not apply; the reason is for the user."""


class Unmatched(Exception):
    """The graph does not hold the pattern after all; not worth a word."""


class Operand:
    """A tensor of the graph: its facts, and its content where it is constant."""

    __slots__ = ("value",)

    def __init__(self, value: ir.Value) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operand) and other.value is self.value

    def __hash__(self) -> int:
        return hash(self.value)

    @property
    def name(self) -> str:
        return self.value.name or ""

    @property
    def dtype(self) -> ir.DataType | None:
        return self.value.dtype if self._is_tensor else None

    @property
    def _is_tensor(self) -> bool:
        # The IR gives a sequence the shape and element type of its items.
        return not isinstance(self.value.type, (ir.SequenceType, ir.OptionalType))

    @property
    def rank(self) -> int | None:
        """The number of dims, or None where it is not known."""
        shape = self.value.shape if self._is_tensor else None
        return None if shape is None else shape.rank()

    @property
    def shape(self) -> tuple[int | str | None, ...] | None:
        """Dims as int, symbol (equal text means equal size) or None; None without a known rank."""
        if self.value.shape is None or not self._is_tensor:
            return None
        return tuple(dim if isinstance(dim, int) else dim.value for dim in self.value.shape.dims)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape if every dim is a known number, otherwise None."""
        shape = self.shape
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return tuple(dim for dim in shape if isinstance(dim, int))

    def dim(self, axis: int) -> int | None:
        """The size along `axis` (negative counts from the end) if it is a known number."""
        shape = self.shape
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        return size if isinstance(size, int) else None

    def same_shape(self, other: Operand) -> bool:
        """Whether both shapes are known and provably equal."""
        mine, theirs = self.shape, other.shape
        return mine is not None and mine == theirs and None not in mine

    @property
    def is_const(self) -> bool:
        return ops.is_constant(self.value)

    @property
    def size(self) -> int | None:
        """The number of elements of a constant or of a static shape."""
        tensor = ops.constant(self.value)
        if tensor is not None:
            return tensor.size
        shape = self.static_shape
        return None if shape is None else int(np.prod(shape, dtype=np.int64))

    @property
    def array(self) -> np.ndarray:
        """The content of a constant (do not write to it). Raises Unmatched where it is not one."""
        tensor = ops.constant(self.value)
        if tensor is None:
            raise Unmatched(f"{self.name} is not constant")
        return tensor.numpy()

    @property
    def scalar(self) -> float | None:
        """The number, if this is a constant with one element of a number type."""
        tensor = ops.constant(self.value)
        if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
            return None
        return float(tensor.numpy().reshape(()).astype(np.float64))

    @property
    def filled(self) -> float | None:
        """The number that every element of this constant equals, sign of zero included, or None."""
        tensor = ops.constant(self.value)
        if tensor is None or tensor.size == 0 or tensor.dtype == ir.DataType.STRING:
            return None
        array = tensor.numpy().reshape(-1)
        first = array[0]
        number = float(first)
        if len(array) == 1:
            return number
        if array[-1] != first or not np.all(array == first):
            return None
        if number == 0 and np.any(np.signbit(array.astype(np.float64)) != np.signbit(number)):
            return None
        return number

    @property
    def ints(self) -> list[int] | None:
        """The elements of a small integer constant as a flat list, otherwise None."""
        tensor = ops.constant(self.value)
        if tensor is None or tensor.size > 1024 or not tensor.dtype.is_integer():
            return None
        return [int(item) for item in tensor.numpy().reshape(-1)]

    @property
    def producer(self) -> NodeView | None:
        node = self.value.producer()
        return None if node is None else NodeView(node)

    @property
    def readers(self) -> list[NodeView]:
        """The nodes that read this tensor, each once."""
        return [NodeView(node) for node in self.value.consumers()]

    @property
    def is_graph_output(self) -> bool:
        return self.value.is_graph_output()

    @property
    def has_one_reader(self) -> bool:
        """Whether exactly one input slot reads this, and it is no graph output."""
        return len(self.value.uses()) == 1 and not self.value.is_graph_output()


class NodeView:
    """A node of the graph as a rule may read it."""

    __slots__ = ("node",)

    def __init__(self, node: ir.Node) -> None:
        self.node = node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeView) and other.node is self.node

    def __hash__(self) -> int:
        return hash(self.node)

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def domain(self) -> str:
        return self.node.domain

    def is_op(self, *op_types: str) -> bool:
        """Whether this is one of `op_types` of the default domain."""
        return ops.is_standard(self.node, *op_types)

    @property
    def inputs(self) -> list[Operand | None]:
        return [None if value is None else Operand(value) for value in self.node.inputs]

    def input(self, index: int) -> Operand | None:
        """The input at `index`, None where it is left out."""
        inputs = self.node.inputs
        if index >= len(inputs) or inputs[index] is None:
            return None
        return Operand(inputs[index])  # type: ignore[arg-type]

    @property
    def outputs(self) -> list[Operand]:
        return [Operand(value) for value in self.node.outputs]

    @property
    def output(self) -> Operand:
        return Operand(self.node.outputs[0])

    @property
    def opset(self) -> int:
        """The version of this node's domain where it stands."""
        return opset_of(self.node)

    def has(self, name: str) -> bool:
        """Whether the attribute is written on the node (not merely a default)."""
        return name in self.node.attributes

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value: as written, else `default`, else the schema's default.

        Raises Unmatched for a reference to an attribute of the enclosing function.
        """
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default if default is not None else self._schema_default(name)
        if attribute.is_ref():
            raise Unmatched(f"{name} is an attribute of the enclosing function")
        return attribute.value

    def _schema_default(self, name: str) -> Any:
        found = schema(self.node.op_type, self.node.domain, self.opset)
        if found is None or name not in found.attributes:
            return None
        default = found.attributes[name].default_value
        value = onnx.helper.get_attribute_value(default) if default.name else None
        return value.decode() if isinstance(value, bytes) else value

    def axes(self) -> list[int] | None:
        """The axes of a Squeeze, Unsqueeze, Reduce*: attribute or constant input; None if unset.

        Raises Unmatched where they are computed at run time.
        """
        if self.has("axes"):
            return [int(axis) for axis in self.attr("axes")]
        operand = self.input(1)
        if operand is None:
            return None
        ints = operand.ints
        if ints is None:
            raise Unmatched("the axes are computed at run time")
        return ints


class Hit:
    """A match: the pattern's variables and labels as attributes, and the root node.

    Variables are Operands (a list for Values, None for an absent optional one, a plain value for
    Attr); labels are NodeViews. What stands in an option that was not taken is None.
    """

    def __init__(self, root: ir.Node, found: Mapping[str, Any]) -> None:
        self.root = NodeView(root)
        self._found = found

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_found"][name]
        except KeyError:
            raise AttributeError(f"the pattern has no {name!r}") from None

    @property
    def opset(self) -> int:
        """The version of the default domain where the match stands."""
        return opset_of(self.root.node, "")

    def require(self, condition: object, reason: str) -> None:
        """Refuse, with a reason the user reads, unless `condition` holds."""
        if not condition:
            raise Refused(reason)

    def match(self, condition: object) -> None:
        """Say quietly that this is not the pattern unless `condition` holds."""
        if not condition:
            raise Unmatched


def opset_of(node: ir.Node, domain: str | None = None) -> int:
    """The version of `domain` (default: the node's own) imported where the node stands, else 0."""
    wanted = node.domain if domain is None else domain
    graph = node.graph
    if graph is None:
        return 0
    imports = graph.opset_imports or graph.meta.get(OPSETS, {})
    return imports.get(wanted, imports.get("ai.onnx", 0) if wanted == "" else 0)


_SCHEMAS: dict[tuple[str, str, int], onnx.defs.OpSchema | None] = {}


def schema(op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    """The operator's schema at that opset, None where the opset lacks it (or it is not ONNX's)."""
    key = (op_type, domain, opset)
    if key not in _SCHEMAS:
        try:
            found = onnx.defs.get_schema(op_type, opset, domain)
            _SCHEMAS[key] = None if found.deprecated else found
        except onnx.defs.SchemaError:
            _SCHEMAS[key] = None
    return _SCHEMAS[key]
