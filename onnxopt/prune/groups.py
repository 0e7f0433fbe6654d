"""Finds what can be pruned: groups of channels that fall together, and why some can't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.axes import Tokens
from onnxopt.prune.flow import walk
from onnxopt.prune.records import Carrier, Group, Positions, Reader, Slot, Writer
from onnxopt.prune.walk import CONVERTING, PARTS, Place, Use, Walk, is_weight, name_of
from onnxopt.rewrite.flows import NOTHING


def find_groups(model: ir.Model) -> tuple[Group, ...]:
    """The groups of the main graph, in the order of their first node, each under its own name.

    The model is optimized and its shapes are inferred (`onnxopt.passes.shapes.infer`). Groups that
    no constant carries are left out: removing them would change nothing.
    """
    found = walk(model.graph)
    return tuple(_named(_Collection(model.graph, found).groups()))


@dataclass(slots=True)
class _Draft:
    """The tokens of a group, and the axes that carry them."""

    tokens: list[int]
    places: list[Place]
    reason: str
    writers: list[Use] = field(default_factory=list)
    readers: list[Use] = field(default_factory=list)


class _Collection:
    """Gathers the tokens of a walk into groups: those that the same axes carry as often."""

    def __init__(self, graph: ir.Graph, found: Walk) -> None:
        self._found = found
        self._tokens: Tokens = found.tokens
        self._order = {node: index for index, node in enumerate(graph.all_nodes())}
        self._positions: dict[tuple[int, int], Positions] = {}
        self._layouts = {
            (value, axis): layout
            for value, axes in found.layouts.items()
            for axis, layout in axes.items()
            if layout.cells is not None and value.name
        }
        self._rank = {place: index for index, place in enumerate(self._layouts)}
        self._counts: dict[int, dict[int, int]] = {}

    def groups(self) -> Iterator[Group]:
        drafts = self._drafts()
        of_token = {token: draft for draft in drafts for token in draft.tokens}
        for uses, name in ((self._found.writers, "writers"), (self._found.readers, "readers")):
            for use in uses:
                for draft in _distinct(of_token.get(t) for t in self._tokens_at(use.place)):
                    getattr(draft, name).append(use)
        made = [self._group(index, draft) for index, draft in enumerate(drafts)]
        first = [self._first(draft) for draft in drafts]
        for index in sorted(range(len(drafts)), key=lambda index: (first[index], index)):
            if made[index].slots and not self._is_structure(drafts[index], made[index]):
                yield made[index]

    def _is_structure(self, draft: _Draft, group: Group) -> bool:
        """Whether it is nothing that anybody would ask about: gates, elements of shapes."""
        floats = any(
            value.dtype is None or not value.dtype.is_integer() for value, _ in draft.places
        )
        return group.kind == PARTS or not (floats or group.writers or group.readers)

    def _drafts(self) -> list[_Draft]:
        shared: dict[int, list[Place]] = {}
        for place, layout in self._layouts.items():
            shared.setdefault(id(layout), []).append(place)
        signature: dict[int, list[tuple[int, int]]] = {}
        for layout_id, places in shared.items():
            for token, count in self._tokens_at(places[0]).items():
                signature.setdefault(token, []).append((layout_id, count))
        drafts: dict[tuple[tuple[tuple[int, int], ...], str, str], _Draft] = {}
        for token, found in signature.items():
            key = (tuple(found), self._tokens.reason(token), self._tokens.kind(token))
            if key not in drafts:
                places = [place for layout_id, _ in found for place in shared[layout_id]]
                drafts[key] = _Draft([], sorted(places, key=self._rank.__getitem__), key[1])
            drafts[key].tokens.append(token)
        return list(drafts.values())

    def _tokens_at(self, place: Place) -> dict[int, int]:
        """The tokens on an axis, in order, with the number of their coordinates."""
        layout = self._layouts.get(place)
        if layout is None:
            return {}
        if id(layout) not in self._counts:
            cells = self._tokens.cells(layout)
            found, first, counts = np.unique(cells, return_index=True, return_counts=True)
            order = np.argsort(first, kind="stable")
            at = zip(found[order].tolist(), counts[order].tolist(), strict=True)
            self._counts[id(layout)] = {token: n for token, n in at if token != NOTHING}
        return self._counts[id(layout)]

    def _group(self, index: int, draft: _Draft) -> Group:
        slots = [
            Slot(str(value.name), axis, self._at(index, draft, (value, axis)))
            for value, axis in draft.places
            if is_weight(value)
        ]
        carriers = [
            Carrier(str(value.name), axis, self._at(index, draft, (value, axis)))
            for value, axis in draft.places
            if not is_weight(value)
        ]
        size = len(draft.tokens)
        by_place = {(slot.value, slot.axis): slot for slot in slots}
        outputs = {(carrier.value, carrier.axis): carrier for carrier in carriers}
        writers = [self._writer(use, by_place, outputs) for use in draft.writers]
        readers = [self._reader(use, by_place, outputs) for use in draft.readers]
        return Group(
            name=self._base(draft),
            size=size,
            kind=self._kind(draft),
            frozen=draft.reason or ("they can only go all at once" if size == 1 else ""),
            slots=tuple(slots),
            writers=tuple(writer for writer in writers if writer is not None),
            readers=tuple(reader for reader in readers if reader is not None),
            carriers=tuple(carriers),
        )

    def _at(self, index: int, draft: _Draft, place: Place) -> Positions:
        """The coordinates of each channel of a draft on an axis."""
        layout = self._layouts[place]
        key = (index, id(layout))
        if key not in self._positions:
            self._positions[key] = _positions(self._tokens.cells(layout), draft.tokens)
        return self._positions[key]

    def _writer(self, use: Use, slots: _Slots, outputs: _Carriers) -> Writer | None:
        weight = _stored(use.weight, slots)
        output = outputs.get((str(use.place[0].name), use.place[1]))
        if weight is None or output is None:
            return None
        bias = _stored(use.bias or _added(use), slots)
        return Writer(name_of(use.node), output, weight, bias)

    def _reader(self, use: Use, slots: _Slots, inputs: _Carriers) -> Reader | None:
        weight = _stored(use.weight, slots)
        source = inputs.get((str(use.place[0].name), use.place[1]))
        if weight is None or source is None:
            return None
        return Reader(name_of(use.node), source, weight)

    def _kind(self, draft: _Draft) -> str:
        kind = next(filter(None, map(self._tokens.kind, draft.tokens)), "")
        if kind:
            return kind
        products = {"Gemm", "MatMul"}
        uses = draft.writers or draft.readers
        return "hidden" if uses and uses[0].node.op_type in products else "channels"

    def _base(self, draft: _Draft) -> str:
        """The node that writes the channels, else that which reads them."""
        if draft.writers:
            return name_of(draft.writers[0].node)
        if draft.readers:
            return f"{name_of(draft.readers[0].node)}.input"
        value = next((value for value, _ in draft.places if is_weight(value)), None)
        readers = [] if value is None else list(value.consumers())
        return f"{name_of(readers[0])}.input" if readers else str(value and value.name)

    def _first(self, draft: _Draft) -> int:
        """Where the first node that has to do with a group stands."""
        nodes = [use.node for use in draft.writers or draft.readers]
        if not nodes:
            nodes = [node for value, _ in draft.places for node in value.consumers()]
        return min((self._order.get(node, 0) for node in nodes), default=0)


_Slots = dict[tuple[str, int], Slot]
_Carriers = dict[tuple[str, int], Carrier]


def _positions(cells: np.ndarray, tokens: list[int]) -> Positions:
    index = {token: number for number, token in enumerate(tokens)}
    found: list[list[int]] = [[] for _ in tokens]
    rows, columns = np.nonzero(np.isin(cells, tokens))
    for row, token in zip(rows.tolist(), cells[rows, columns].tolist(), strict=True):
        found[index[token]].append(row)
    return tuple(map(tuple, found))


def _distinct(drafts: Iterable[_Draft | None]) -> Iterator[_Draft]:
    seen: set[int] = set()
    for draft in drafts:
        if draft is not None and id(draft) not in seen:
            seen.add(id(draft))
            yield draft


def _stored(place: Place | None, slots: _Slots) -> Slot | None:
    """The constant that an axis of a weight comes from, with its channels."""
    while place is not None:
        value, axis = place
        if is_weight(value):
            return slots.get((str(value.name), axis))
        node = value.producer()
        source = node.inputs[0] if node is not None and node.op_type in CONVERTING else None
        place = None if source is None else (source, axis)
    return None


def _added(use: Use) -> Place | None:
    """The constant that the one reader of a matrix product adds along its last axis."""
    value = use.place[0]
    uses = list(value.uses())
    if use.node.op_type != "MatMul" or len(uses) != 1 or not ops.is_standard(uses[0].node, "Add"):
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    tensor = ops.constant(other)
    if other is None or tensor is None or not len(tensor.shape):
        return None
    return other, len(tensor.shape) - 1


def _named(groups: Iterable[Group]) -> Iterator[Group]:
    """Name groups after their first writer, with their kind or a number where that is taken."""
    from dataclasses import replace

    taken: Counter[str] = Counter()
    for group in groups:
        base = group.name
        name = base if base not in taken else f"{base}.{group.kind.replace(' ', '_')}"
        number = 2
        while name in taken:
            name = f"{base}.{group.kind.replace(' ', '_')}{number}"
            number += 1
        taken[name] += 1
        yield replace(group, name=name)
