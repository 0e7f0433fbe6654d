"""The `op` of a rewrite: describes new nodes and constants without touching the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt.errors import RuleError
from onnxopt.rewrite.hit import NodeView, Operand, Refused, schema


@dataclass(eq=False, slots=True)
class NewNode:
    """A node to be made; compared by identity."""

    domain: str
    op_type: str
    inputs: tuple[Any, ...]
    attributes: dict[str, ir.Attr]
    outputs: int
    like: NodeView | None


@dataclass(frozen=True, slots=True)
class NewOutput:
    """One output of a node to be made."""

    node: NewNode
    index: int = 0


@dataclass(eq=False, slots=True)
class NewConst:
    """A constant to be made; `like` gives it its name."""

    array: np.ndarray
    dtype: ir.DataType
    like: Operand | None


@dataclass(slots=True)
class RewriteBuilder:
    """Makes new nodes that the model's opset has, and refuses those it lacks.

    `op.Gemm(x, w, b, transB=1)` gives an output (a tuple with `outputs=n`); `like=hit.conv` copies
    the name, docs and attributes of an existing node, which written attributes override (None
    removes one).
    """

    opsets: dict[str, int]
    domain: str = ""
    made: list[NewNode] = field(default_factory=list)

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))

    def of(self, domain: str) -> RewriteBuilder:
        """The same builder for ops of another domain."""
        return RewriteBuilder(self.opsets, domain, self.made)

    def const(
        self, array: Any, *, like: Operand | None = None, dtype: ir.DataType | None = None
    ) -> NewConst:
        """A constant; its dtype is `dtype`, else that of `like`, else that of the array.

        Numbers and lists without any dtype become int64 (integers) or float32.
        """
        wanted = dtype or (like.dtype if like is not None else None)
        if wanted is None:
            wanted = _natural_dtype(array)
        return NewConst(np.asarray(array).astype(wanted.numpy()), wanted, like)

    def ints(self, values: Iterable[int], *, like: Operand | None = None) -> NewConst:
        """A one-dimensional int64 constant."""
        array = np.array([int(value) for value in values], dtype=np.int64)
        return NewConst(array, ir.DataType.INT64, like)

    def has(self, op_type: str) -> bool:
        """Whether the model's opset has `op_type`."""
        return schema(op_type, self.domain, self.opsets.get(self.domain, self.opset)) is not None

    def node(
        self,
        op_type: str,
        inputs: Iterable[Any],
        *,
        outputs: int = 1,
        like: NodeView | None = None,
        **attributes: Any,
    ) -> Any:
        """The general form of `op.<op_type>(...)`."""
        written = _attributes(like, op_type, attributes)
        operands = _without_trailing_none(inputs)
        self._check(op_type, operands, written)
        node = NewNode(self.domain, op_type, operands, written, outputs, like)
        self.made.append(node)
        if outputs == 1:
            return NewOutput(node)
        return tuple(NewOutput(node, index) for index in range(outputs))

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def build(*inputs: Any, **keywords: Any) -> Any:
            return self.node(op_type, inputs, **keywords)

        return build

    def _check(self, op_type: str, operands: tuple[Any, ...], written: dict[str, ir.Attr]) -> None:
        version = self.opsets.get(self.domain, self.opset)
        found = schema(op_type, self.domain, version)
        if found is None:
            if self.domain in ("", "ai.onnx"):
                raise Refused(f"{op_type} is not in opset {version}; --opset raises it")
            return
        unknown = sorted(set(written) - set(found.attributes))
        if unknown or not found.min_input <= len(operands) <= found.max_input:
            what = f"the attribute {unknown[0]!r}" if unknown else f"{len(operands)} inputs"
            raise Refused(f"{op_type} does not take {what} in opset {version}")


def _attributes(like: NodeView | None, op_type: str, given: dict[str, Any]) -> dict[str, ir.Attr]:
    attributes: dict[str, ir.Attr] = {}
    if like is not None and like.op_type == op_type:
        attributes.update(like.node.attributes)
    for name, value in given.items():
        attributes.pop(name, None)
        if value is not None:
            attributes[name] = value if isinstance(value, ir.Attr) else _attribute(name, value)
    return attributes


def _attribute(name: str, value: Any) -> ir.Attr:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        items = [item.item() if isinstance(item, np.generic) else item for item in value]
        return (
            ir.AttrInt64s(name, []) if not items else ir.convenience.convert_attribute(name, items)
        )
    if isinstance(value, ir.DataType):
        return ir.AttrInt64(name, int(value))
    return ir.convenience.convert_attribute(
        name, value.item() if isinstance(value, np.generic) else value
    )


def _without_trailing_none(inputs: Iterable[Any]) -> tuple[Any, ...]:
    operands = list(inputs)
    while operands and operands[-1] is None:
        operands.pop()
    for operand in operands:
        if not isinstance(operand, Operand | NewOutput | NewConst | None):
            raise RuleError(
                f"a new node got {operand!r} as input",
                hint="pass operands of the hit, outputs of new nodes, or op.const(...)",
            )
    return tuple(operands)


def _natural_dtype(array: Any) -> ir.DataType:
    if isinstance(array, np.ndarray | np.generic):
        return ir.DataType.from_numpy(array.dtype)
    kind = np.asarray(array).dtype.kind
    if kind == "b":
        return ir.DataType.BOOL
    return ir.DataType.INT64 if kind in "iu" else ir.DataType.FLOAT


def infer_outputs(node: ir.Node, opsets: dict[str, int]) -> None:
    """Write dtype and shape of a new node's outputs where ONNX's own inference tells them."""
    version = opsets.get(node.domain, opsets.get("", 0))
    found = schema(node.op_type, node.domain, version)
    if found is None or any(value is not None and value.type is None for value in node.inputs):
        return
    proto = ir.serde.serialize_node(node)
    types, data = {}, {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        typed = ir.serde.serialize_value(value)
        types[value.name] = typed.type
        tensor = value.const_value
        if tensor is not None and tensor.size <= 64 and tensor.dtype.is_integer():
            data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            found, proto, types, data, opset_imports=_opset_protos(opsets)
        )
    except Exception:  # inference is a help, and any complaint of it means only "not known"
        return
    for value in node.outputs:
        if value.name in inferred and value.type is None:
            _take(value, inferred[value.name])


def _take(value: ir.Value, proto: onnx.TypeProto) -> None:
    found = ir.serde.deserialize_type_proto_for_type(proto)
    if found is not None:
        value.type = found
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    if shape is not None:
        value.shape = shape


def _opset_protos(opsets: dict[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
