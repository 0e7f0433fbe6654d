"""Takes large tensor data out of a serialized model and puts it back, without parsing the rest.

A protobuf parser copies every weight, and a serializer copies it again. Here a serialized
ModelProto is made thin first: the `raw_data` of each large tensor is replaced by a ticket of
sixteen bytes, whatever the nesting. The thin bytes are small and parse fast; the data stays where
it was, and `fatten` says where to splice it back in.

The layout of messages on the wire: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LARGE = 4096
"""Data of at least so many bytes is taken out."""

# Random, so that no model can hold data that looks like a ticket.
_PREFIX = os.urandom(10)
_TICKET_BYTES = len(_PREFIX) + 6
_numbers = itertools.count()

_TENSOR = "tensor"
_RAW_DATA = 9

# Which fields of which message lead to tensors (onnx.proto).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph"},
    _TENSOR: {},
}

# Numbers and strings, often one field each, in thousands: behind them comes no `raw_data`.
_LISTS: dict[str, frozenset[int]] = {
    "attribute": frozenset({7, 8, 9}),
    _TENSOR: frozenset({4, 5, 6, 7, 10, 11}),
}


class MalformedError(ValueError):
    """The bytes are not a protobuf message, or end too early."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where in the serialized model the data of one ticket lies."""

    ticket: bytes
    start: int
    length: int


def new_ticket() -> bytes:
    """A name for a piece of data, unlike any other in this process."""
    return _PREFIX + next(_numbers).to_bytes(6, "little")


def is_ticket(data: bytes) -> bool:
    """Whether `raw_data` stands for data kept elsewhere."""
    return len(data) == _TICKET_BYTES and data.startswith(_PREFIX)


def thin(data: memoryview) -> tuple[bytes, list[Span]]:
    """The serialized ModelProto with tickets in the place of large data, and where that data is.

    Raises:
        MalformedError: `data` is not a protobuf message or is truncated.
    """
    spans: list[Span] = []
    chunks: list[bytes | memoryview] = []
    try:
        _thin_message("model", data, 0, len(data), chunks, spans)
    except IndexError as error:
        raise MalformedError("the data ends inside a field") from error
    return b"".join(chunks), spans


def fatten(data: bytes, length_of: Callable[[bytes], int]) -> Iterator[tuple[bytes, bytes | None]]:
    """Pieces of the full serialized ModelProto, in order, each with the ticket of what follows it.

    Args:
        data: A serialized thin ModelProto.
        length_of: How many bytes the data of a ticket has.
    """
    positions = _ticket_positions(data)
    if not positions:
        yield data, None
        return
    pieces = _Pieces(data, positions, length_of)
    pieces.message("model", 0, len(data))
    yield from pieces.result()


def _thin_message(
    kind: str,
    data: memoryview,
    position: int,
    end: int,
    chunks: list[bytes | memoryview],
    spans: list[Span],
) -> int:
    """Append the thin form of the message at `position`; its length in bytes."""
    children = _FIELDS[kind]
    lists = _LISTS.get(kind, ())
    tensor = kind is _TENSOR
    copied = position
    length = 0
    while position < end:
        start = position
        position, field, body, stop = _next_field(data, position, end)
        if field in lists:
            break
        if stop - body < LARGE:
            continue
        if tensor and field == _RAW_DATA:
            ticket = new_ticket()
            spans.append(Span(ticket, body, stop - body))
            piece: list[bytes | memoryview] = [ticket]
            size = _TICKET_BYTES
        elif field in children:
            piece = []
            size = _thin_message(children[field], data, body, stop, piece, spans)
        else:
            continue
        head = _varint(field << 3 | 2) + _varint(size)
        chunks += (data[copied:start], head, *piece)
        length += start - copied + len(head) + size
        copied = position
    chunks.append(data[copied:end])
    return length + end - copied


def _next_field(data: memoryview | bytes, position: int, end: int) -> tuple[int, int, int, int]:
    """(position after the field, field number, start and end of its content)."""
    tag = data[position]
    position += 1
    if tag > 127:
        tag, position = _long_varint(data, position, tag)
    kind = tag & 7
    if kind == 2:
        length = data[position]
        position += 1
        if length > 127:
            length, position = _long_varint(data, position, length)
        stop = position + length
    elif kind == 0:
        stop = position
        while data[stop] > 127:
            stop += 1
        stop += 1
    elif kind == 5:
        stop = position + 4
    elif kind == 1:
        stop = position + 8
    else:
        raise MalformedError(f"there is no field type {kind}")
    if stop > end:
        raise MalformedError(f"a field ends {stop - end} bytes after its message")
    return stop, tag >> 3, position, stop


def _long_varint(data: memoryview | bytes, position: int, value: int) -> tuple[int, int]:
    value &= 127
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise MalformedError("a number has more than ten bytes")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _ticket_positions(data: bytes) -> list[int]:
    positions: list[int] = []
    position = data.find(_PREFIX)
    while position >= 0:
        positions.append(position)
        position = data.find(_PREFIX, position + _TICKET_BYTES)
    return positions


class _Pieces:
    """Walks to each ticket, collecting the bytes around it with their lengths put right."""

    def __init__(
        self, data: bytes, positions: list[int], length_of: Callable[[bytes], int]
    ) -> None:
        self._data = data
        self._positions = positions
        self._length_of = length_of
        self._next = 0
        # Bytes, or for a ticket an empty place that its data fills.
        self._parts: list[tuple[bytes, bytes | None]] = []

    def message(self, kind: str, position: int, end: int) -> int:
        """Collect the message at `position`; its full length in bytes."""
        copied = position
        length = 0
        children = _FIELDS[kind]
        while self._next < len(self._positions) and self._positions[self._next] < end:
            target = self._positions[self._next]
            while True:
                start = position
                position, field, body, stop = _next_field(self._data, position, end)
                if stop > target:
                    break
            self._part(self._data[copied:start])
            length += start - copied + self._field(field, children.get(field), body, stop)
            copied = position
        self._part(self._data[copied:end])
        return length + end - copied

    def _field(self, number: int, kind: str | None, body: int, stop: int) -> int:
        mark = len(self._parts)
        if kind is None:
            ticket = self._data[body:stop]
            if not is_ticket(ticket):
                raise MalformedError("a ticket lies outside of the data of a tensor")
            self._next += 1
            size = self._length_of(ticket)
            self._parts.append((b"", ticket))
        else:
            size = self.message(kind, body, stop)
        head = _varint(number << 3 | 2) + _varint(size)
        self._parts.insert(mark, (head, None))
        return len(head) + size

    def _part(self, data: bytes) -> None:
        if data:
            self._parts.append((data, None))

    def result(self) -> Iterator[tuple[bytes, bytes | None]]:
        held: list[bytes] = []
        for data, ticket in self._parts:
            held.append(data)
            if ticket is not None:
                yield b"".join(held), ticket
                held = []
        yield b"".join(held), None
