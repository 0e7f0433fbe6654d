"""Attributes and texts of a proto, with what the IR keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxopt.errors import BadModel

_ENCODING = "names, documentation and metadata must be in UTF-8; export the model again"

# A tree ensemble has hundreds of thousands of numbers, which few look at.
_LISTS = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)


class ReadAttr(ir.Attr):
    """An attribute with the proto it was read from, which holds all that it means."""

    __slots__ = ("_list", "proto")

    def __init__(
        self,
        proto: onnx.AttributeProto,
        kind: ir.AttributeType,
        value: Any,
        reference: str | None = None,
    ) -> None:
        doc = read_text(proto, "doc_string")
        lazy = kind in _LISTS
        super().__init__(proto.name, kind, None if lazy else value, reference, doc_string=doc)
        self.proto = proto
        self._list = value if lazy else None

    @property
    def value(self) -> Any:
        """The value; lists of numbers are taken from the proto when they are first asked for."""
        if self._list is None:
            return super().value
        if not isinstance(self._list, tuple):
            self._list = tuple(self._list)
        return self._list


def read_text(proto: Any, field: str) -> str | None:
    """A string field, or None where it is not set."""
    if not proto.HasField(field):
        return None
    text: str = getattr(proto, field)
    refuse_bytes([text])
    return text


def read_props(entries: Sequence[onnx.StringStringEntryProto]) -> dict[str, str] | None:
    """Metadata as a dict, or None where there is none."""
    if not entries:
        return None
    props = {entry.key: entry.value for entry in entries}
    refuse_bytes([*props, *props.values()])
    return props


def refuse_bytes(texts: Iterable[str]) -> None:
    """Refuse text that is not UTF-8, which protobuf hands out as bytes."""
    for text in texts:
        if type(text) is not str:
            raise BadModel(f"the text {text!r} is not UTF-8", hint=_ENCODING)


SIMPLE: dict[ir.AttributeType, Callable[[onnx.AttributeProto], Any]] = {
    ir.AttributeType.INT: lambda proto: proto.i,
    ir.AttributeType.FLOAT: lambda proto: proto.f,
    ir.AttributeType.STRING: lambda proto: _decoded(proto.s),
    ir.AttributeType.INTS: lambda proto: proto.ints,
    ir.AttributeType.FLOATS: lambda proto: proto.floats,
    ir.AttributeType.STRINGS: lambda proto: [_decoded(text) for text in proto.strings],
    ir.AttributeType.SPARSE_TENSOR: lambda proto: proto.sparse_tensor,
    ir.AttributeType.SPARSE_TENSORS: lambda proto: proto.sparse_tensors,
    ir.AttributeType.UNDEFINED: lambda proto: None,
}
"""How to read the attributes that hold no tensor, graph or type."""


def _decoded(text: bytes) -> Any:
    # Custom ops store what they like in strings; the IR takes bytes there too.
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text
