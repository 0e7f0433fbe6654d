"""Takes channels out: slices constants, rewrites what holds sizes, infers the shapes anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt import ops, registry
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.prune import targets
from onnxopt.prune.records import Carrier, Group, Removal, Slot
from onnxopt.prune.walk import sizes_of, tell_opsets
from onnxopt.rewrite.hit import NodeView

Gone = Mapping[tuple[str, int], NDArray[np.int64]]
"""(name of a value, axis) → the coordinates that go, in ascending order."""


def remove(model: ir.Model, groups: Sequence[Group], removal: Removal) -> ir.Model:
    """A copy of the model without the channels in `removal`.

    `groups` are those that `find_groups` finds in `model`. Names and the interface stay, the
    shapes are inferred anew, stale annotations are dropped.

    Raises:
        BadInput: The removal names a group or channel that is not there, that is frozen, or leaves
            nothing or no multiple of what a group asks for.
    """
    check(groups, removal)
    gone = gone_from(groups, removal)
    pruned = model.clone()
    if not gone:
        return pruned
    tell_opsets(pruned.graph)
    nodes = [node for node in pruned.graph.all_nodes() if not ops.is_standard(node, "Constant")]
    maker = targets.Maker(pruned)
    _resize(nodes, gone, maker)
    _slice(pruned, gone)
    shapes.remember_anew(_without_annotations(pruned, gone))
    return pruned


def check(groups: Sequence[Group], removal: Removal) -> None:
    """Raise BadInput for a removal that can't be applied to the groups."""
    known = {group.name: group for group in groups}
    for name, indices in removal.items():
        group = known.get(name)
        if group is None:
            raise BadInput(
                f"there is no group {name!r}", hint="`onnxopt prune --explain` lists them"
            )
        if indices and group.frozen:
            raise BadInput(f"group {name!r} can't be pruned: {group.frozen}")
        left = group.size - len(indices)
        wrong = [index for index in indices if not 0 <= index < group.size]
        if wrong or len(set(indices)) != len(indices):
            raise BadInput(
                f"group {name!r} has channels 0 to {group.size - 1}, each to be removed once",
                hint=f"take {wrong[0] if wrong else 'the doubles'} out of the plan",
            )
        if left < 1 or left % group.multiple:
            raise BadInput(
                f"{left} of the {group.size} channels of {name!r} would be left",
                hint=f"leave a multiple of {group.multiple}, and at least one",
            )


def gone_from(groups: Iterable[Group], removal: Removal) -> dict[tuple[str, int], Any]:
    """Which coordinates go on which axis of which value."""
    found: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        indices = removal.get(group.name, ())
        places: tuple[Slot | Carrier, ...] = (*group.slots, *group.carriers)
        for place in places if indices else ():
            at = found.setdefault((place.value, place.axis), set())
            at.update(*(place.positions[index] for index in indices))
    return {place: np.array(sorted(at), np.int64) for place, at in found.items() if at}


class NodeResize:
    """What the resizing of an operator sees of one node; see `onnxopt.rewrite.Resize`."""

    def __init__(
        self, node: ir.Node, gone: Gone, maker: targets.Maker, sources: targets.Sources
    ) -> None:
        self.node = NodeView(node)
        self._sources = sources
        self._gone = gone
        self._maker = maker

    def kept(self, index: int, axis: int) -> NDArray[np.int64] | None:
        inputs = self.node.node.inputs
        return self._kept(inputs[index] if index < len(inputs) else None, axis)

    def kept_out(self, axis: int, index: int = 0) -> NDArray[np.int64] | None:
        return self._kept(self.node.node.outputs[index], axis)

    def sizes(self, index: int) -> list[int | None]:
        found = self._sources.of(self.node.node.inputs[index])
        numbers = [isinstance(each, targets.Number) and each.number for each in found or ()]
        return [None if number is False else number for number in numbers]

    def set(self, name: str, value: Any) -> None:
        self.node.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def drop(self, name: str) -> None:
        self.node.node.attributes.pop(name, None)

    def put(self, index: int, array: NDArray[Any]) -> None:
        if len(self.node.node.inputs) <= index:
            self.node.node.resize_inputs(index + 1)
        self._maker.replace(self.node.node, index, array)

    def put_sizes(self, index: int, numbers: Mapping[int, int]) -> None:
        if numbers:
            self._maker.rewrite(self.node.node, index, numbers)

    def _kept(self, value: ir.Value | None, axis: int) -> NDArray[np.int64] | None:
        if value is None:
            return None
        sizes = _sizes(value)
        at = self._gone.get((str(value.name), axis % len(sizes))) if sizes else None
        size = sizes[axis % len(sizes)] if sizes else None
        return None if at is None or size is None else np.delete(np.arange(size), at)


def _sizes(value: ir.Value) -> list[int | None]:
    """The sizes of a value's axes; nothing is proven of what a body is given."""
    shape = shapes.declared(value)[1] if value.shape is None else None
    if shape is None:
        return sizes_of(value)
    return [dim if isinstance(dim, int) else None for dim in shape]


def _resize(nodes: Iterable[ir.Node], gone: Gone, maker: targets.Maker) -> None:
    changed = {name for name, _ in gone}
    sources = targets.Sources()
    for node in nodes:
        sources.follow(node)
        domain = "" if node.domain in ops.STANDARD_DOMAINS else node.domain
        record = registry.channel_flows().get((domain, node.op_type))
        touched = any(v is not None and v.name in changed for v in (*node.inputs, *node.outputs))
        if record is not None and record.resize is not None and touched:
            record.resize(NodeResize(node, gone, maker, sources))


def _slice(model: ir.Model, gone: Gone) -> None:
    by_name: dict[str, list[int]] = {}
    for name, axis in gone:
        by_name.setdefault(name, []).append(axis)
    values = [value for graph in _graphs(model) for value in graph.initializers.values()]
    values += [n.outputs[0] for n in model.graph.all_nodes() if ops.is_standard(n, "Constant")]
    for value in values:
        axes = by_name.get(str(value.name), [])
        tensor = ops.constant(value)
        if not axes or tensor is None:
            continue
        array = tensor.numpy()
        for axis in axes:
            array = np.delete(array, gone[str(value.name), axis], axis=axis)
        ops.store_constant(
            value, ir.tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=value.name)
        )


def _without_annotations(pruned: ir.Model, gone: Gone) -> ir.Model:
    """The model with what was declared of its interface, and of nothing in between."""
    kept = {value: shapes.declared(value) for graph in _graphs(pruned) for value in graph.inputs}
    ends = {value: shapes.declared(value) for value in pruned.graph.outputs}
    for node in pruned.graph.all_nodes():
        for value in node.outputs:
            # A body has to say what type its outputs are.
            value.type = value.type if value.is_graph_output() else None
            value.shape = None
    for value, (kind, shape) in (kept | ends).items():
        if not value.is_initializer():
            value.type, value.shape = kind, _shrunk(value, shape, gone)
    return pruned


def _shrunk(value: ir.Value, shape: ir.Shape | None, gone: Gone) -> ir.Shape | None:
    """The shape that a body declares for its input, without what goes."""
    if shape is None or not any(name == value.name for name, _ in gone):
        return shape
    sizes = [
        dim - len(gone.get((str(value.name), axis), ())) if isinstance(dim, int) else dim
        for axis, dim in enumerate(shape)
    ]
    return ir.Shape(sizes)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()
