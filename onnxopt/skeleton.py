"""A model without its weights, for onnx's checker and shape inference."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxopt.writer import Slot

_INTEGER_BYTES = 1 << 16


def strip(graph: onnx.GraphProto, slots: Iterable[Slot], keep_bytes: int) -> None:
    """Turn each large constant of the main graph into an input of its type and shape.

    The checker wants to see the data of constants, however large they are. Integers stay up to
    64 kB, because inference reads shapes from them, and so does what lies in bodies and functions.
    """
    left = {slot.ticket: slot for slot in slots}
    large = {ticket for ticket, slot in left.items() if slot.length > _limit(slot, keep_bytes)}
    if large:
        inputs = {info.name for info in graph.input}
        for name, ticket in _take_out(graph, large):
            slot = left.pop(ticket)
            if name not in inputs:
                kind = graph.input.add(name=name).type.tensor_type
                kind.elem_type = slot.proto.data_type
                kind.shape.dim.extend(
                    onnx.TensorShapeProto.Dimension(dim_value=dim) for dim in slot.tensor.shape
                )
    for slot in left.values():
        slot.proto.raw_data = slot.tensor.tobytes()


def _limit(slot: Slot, keep_bytes: int) -> int:
    return max(keep_bytes, _INTEGER_BYTES) if slot.tensor.dtype.is_integer() else keep_bytes


def _take_out(graph: onnx.GraphProto, tickets: set[bytes]) -> list[tuple[str, bytes]]:
    """Remove initializers and Constant nodes whose data is one of the tickets: (name, ticket)."""
    taken: list[tuple[str, bytes]] = []
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if tensor.raw_data in tickets:
            taken.append((tensor.name, tensor.raw_data))
            del graph.initializer[index]
    if len(taken) == len(tickets):
        return taken
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type != "Constant" or len(node.attribute) != 1 or not node.output:
            continue
        data = node.attribute[0].t.raw_data
        if data in tickets:
            taken.append((node.output[0], data))
            del graph.node[index]
    return taken
