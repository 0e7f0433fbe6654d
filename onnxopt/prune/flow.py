"""A walk over a graph that gives every axis its layout, by the flows in the rule files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxopt import ops, registry
from onnxopt.prune.balance import Balance, balance
from onnxopt.prune.bodies import visit_bodies
from onnxopt.prune.regroup import regroup
from onnxopt.prune.targets import Number, Size
from onnxopt.prune.walk import (
    PARTS,
    Place,
    Use,
    Walk,
    dims_of,
    is_stored,
    named,
    read_by,
    sizes_of,
    tell_opsets,
)
from onnxopt.rewrite.flows import Layout, fixed
from onnxopt.rewrite.hit import NodeView, Unmatched

_MALFORMED = (ArithmeticError, LookupError, TypeError, ValueError)


def walk(graph: ir.Graph) -> Walk:
    """Follow the channels from the inputs of a graph to its outputs, which stay as they are."""
    tell_opsets(graph)
    found = _walked(graph, Walk())
    return _walked(graph, Walk(loose=True)) if found.misfits else found


def _walked(graph: ir.Graph, found: Walk) -> Walk:
    for node in graph:
        _visit(found, node)
    for value in graph.outputs:
        _keep_all(found, value, f"they are the model's output {value.name!r}")
        for size in found.sources.sizes_in(value):
            why = f"the model's output {value.name!r} says how many they are"
            found.tokens.freeze(found.layout(size.value, size.axis), why)
    counts = Counter(value.name for value in found.layouts)
    for value in found.layouts:
        if counts[value.name] > 1:
            _keep_all(found, value, f"two values are called {value.name!r}: export with own names")
    balance(found.tokens, found.balances)
    return found


def _visit(found: Walk, node: ir.Node) -> None:
    if ops.is_standard(node, "Constant") or visit_bodies(found, node, _visit):
        return
    view = NodeFlow(found, node)
    passed_on = found.sources.follow(node)
    why = _follow(view)
    if not passed_on:
        _keep_measured(found, node, view)
    for value in read_by(node):
        for axis, layout in found.layouts.get(value, {}).items():
            if (value, axis) not in view.asked:
                if view.asked and is_stored(value):
                    # The window of a filter, say: nobody asks about it.
                    found.tokens.label(layout, PARTS)
                found.tokens.freeze(layout, why)
    for value in node.outputs:
        if not view.asked:
            _keep_all(found, value, why)
        if value.name and value not in found.layouts and value.shape is not None:
            sizes = sizes_of(value)
            found.layouts[value] = {axis: fixed(size, why) for axis, size in enumerate(sizes)}


def _follow(view: NodeFlow) -> str:
    """Let the operator's flow say what it knows; why all that it did not ask for stays."""
    node = view.node.node
    domain = "" if node.domain in ops.STANDARD_DOMAINS else node.domain
    record = registry.channel_flows().get((domain, node.op_type))
    why = f"{named(node)} needs all of them"
    if record is None:
        return f"{why}: how channels pass it, a ChannelFlow in a rule pack says"
    try:
        record.flow(view)
    except Unmatched as error:
        why += f": {error}" if str(error) else ""
        view.asked.clear()
    except _MALFORMED:
        # A node that is not as its operator asks is the checker's business.
        why += ": it is not as its operator has to be; `onnxopt validate` says more"
        view.asked.clear()
    if any(value.name and not view.gave(value) for value in node.outputs):
        # A flow that stops half way has said nothing.
        view.asked.clear()
    return why


def _keep_measured(found: Walk, node: ir.Node, view: NodeFlow) -> None:
    """Keep what a node computes with the number of, but for nodes that take it as a size."""
    for value in read_by(node):
        if value not in view.sizes:
            for size in found.sources.sizes_in(value):
                why = f"{named(node)} computes with their number"
                found.tokens.freeze(found.layout(size.value, size.axis), why)


def _keep_all(found: Walk, value: ir.Value, why: str) -> None:
    for layout in found.layouts.get(value, {}).values():
        found.tokens.freeze(layout, why)


class NodeFlow:
    """What the flow of an operator sees of one node; see `onnxopt.rewrite.Flow`."""

    def __init__(self, found: Walk, node: ir.Node) -> None:
        self.node = NodeView(node)
        self.asked: set[Place] = set()
        self.sizes: set[ir.Value] = set()
        self._found = found
        self._name = named(node)

    def rank(self, index: int) -> int:
        inputs = self.node.node.inputs
        value = inputs[index] if index < len(inputs) else None
        return 0 if value is None else len(self._found.sizes(value))

    def of(self, index: int, axis: int) -> Layout:
        value, axis = place = self._place(index, axis)
        self.asked.add(place)
        return self._found.layout(value, axis)

    def all_of(self, index: int) -> list[Layout]:
        return [self.of(index, axis) for axis in range(self.rank(index))]

    def out_sizes(self, index: int = 0) -> list[int | None]:
        return sizes_of(self.node.node.outputs[index])

    def give(self, layouts: Sequence[Layout | None], index: int = 0) -> None:
        outputs = self.node.node.outputs
        if index >= len(outputs) or not outputs[index].name:
            return
        why = f"they are positions that {self._name} computes, not channels"
        known = [None] * len(layouts) if outputs[index].shape is None else self.out_sizes(index)
        if len(known) != len(layouts):
            raise Unmatched("its output does not have the rank that it should have")
        axes = self._found.layouts[outputs[index]] = {}
        for axis, (layout, size) in enumerate(zip(layouts, known, strict=True)):
            axes[axis] = fixed(size, why) if layout is None else self._sized(layout, size)

    def gave(self, value: ir.Value) -> bool:
        """Whether the flow has said the layouts of an output."""
        return value in self._found.layouts

    def equal(self, *layouts: Layout, why: str = "") -> Layout:
        wide = [layout for layout in layouts if layout.size != 1]
        if not wide:
            return layouts[0]
        first = next((layout for layout in wide if layout.size is not None), wide[0])
        sizes = {layout.size for layout in wide if layout.size is not None}
        reason = f"{self._name} {why or 'brings axes together that are split differently'}"
        if len(sizes) > 1:
            found = " and ".join(map(str, sorted(sizes)))
            reason = f"{self._name} brings together axes of different sizes: {found}"
        elif any(layout.size is None for layout in wide):
            reason = (
                f"{self._name} brings them together with an axis of unknown size; --dim fixes one"
            )
        for layout in wide:
            self._found.tokens.equal(first, layout, reason)
        return first

    def same(self, one: Layout, other: Layout) -> bool:
        return self._found.tokens.same(one, other)

    def merge(self, layouts: Iterable[Layout]) -> Layout:
        return self._found.tokens.merge(list(layouts))

    def split(self, layout: Layout, sizes: Sequence[int], why: str = "") -> list[Layout]:
        reason = f"{self._name} {why or 'splits them across the groups that they are in elsewhere'}"
        return self._found.tokens.split(layout, sizes, reason)

    def grouped(self, x: Layout, made: Layout, count: int) -> Layout:
        if x.size is None or made.size is None or x.size % count or made.size % count:
            raise Unmatched("its groups do not divide its channels")
        size = x.size // count
        if self._found.loose and size > 1:
            parts = [x.take(slice(at, at + size)) for at in range(0, x.size, size)]
            why = f"{self._name} has groups that do not line up with those before and after it"
            self._found.balances.append(Balance(made, count, why))
            return self.equal(*parts, why=why)
        before = self._found.tokens.misfits
        first, inner = self.split(x, (count, size))
        if self._found.tokens.misfits > before and size > 1:
            self._found.misfits.append(self.node.node)
        self.equal(first, self.split(made, (count, made.size // count))[0])
        return inner

    def regroup(self, layouts: Sequence[Layout]) -> list[Layout]:
        x, made = self.node.node.inputs[0], self.node.node.outputs[0]
        if x is None:
            raise Unmatched("its input is missing")
        why = (
            f"{self._name} splits or merges them across the order that they are in, or an open size"
        )
        old = list(zip(dims_of(x), layouts, strict=True))
        return regroup(self._found.tokens, old, dims_of(made), why)

    def computes_both(self) -> bool:
        return not any(map(is_stored, self.node.node.inputs[:2]))

    def new(self, size: int, kind: str = "") -> Layout:
        made = self._found.tokens.fresh(size)
        if kind:
            self._found.tokens.label(made, kind)
        return made

    def keep_parts(self, layout: Layout, why: str) -> None:
        self.label(layout, PARTS)
        self.keep(layout, why)

    def keep(self, layout: Layout, why: str) -> None:
        self._found.tokens.freeze(layout, f"{self._name} {why}")

    def label(self, layout: Layout, kind: str) -> None:
        self._found.tokens.label(layout, kind)

    def sizes_in(self, index: int, layouts: Sequence[Layout]) -> None:
        value, axis = self._place(index, 0)
        self.asked.add((value, axis))
        self.sizes.add(value)
        found = self._found.sources.of(value) or (None,) * len(layouts)
        for layout, element in zip(layouts, found, strict=False):
            follows = isinstance(element, Number)
            if isinstance(element, Size):
                source = self._found.layout(element.value, element.axis)
                follows = self._found.tokens.same(source, layout)
            if not follows:
                self.keep(
                    layout,
                    "computes the size of their axis when it runs; fixed input sizes fold it",
                )

    def ints(self, index: int) -> list[int | None] | None:
        inputs = self.node.node.inputs
        value = inputs[index] if index < len(inputs) else None
        found = self._found.sources.of(value)
        if found is None or value is None:
            return None
        return [each.number if isinstance(each, Number) else None for each in found]

    def writes(
        self, axis: int, weight: tuple[int, int], bias: tuple[int, int] | None = None, out: int = 0
    ) -> None:
        value = self.node.node.outputs[out]
        axis %= len(self._found.layouts.get(value, {})) or 1
        if value.name:
            bias_place = None if bias is None or not self.rank(bias[0]) else self._place(*bias)
            place = (value, axis)
            self._found.writers.append(Use(self.node.node, place, self._place(*weight), bias_place))

    def reads(self, index: int, axis: int, weight: tuple[int, int] | None = None) -> None:
        place = self._place(index, axis)
        other = None if weight is None else self._place(*weight)
        self._found.readers.append(Use(self.node.node, place, other, index=index))

    def _place(self, index: int, axis: int) -> Place:
        value = self.node.node.inputs[index] if index < len(self.node.node.inputs) else None
        if value is None:
            raise Unmatched(f"its input {index} is missing")
        rank = len(self._found.sizes(value))
        if not -rank <= axis < rank:
            raise Unmatched(f"its input {index} has no axis {axis}")
        return value, axis % rank

    def _sized(self, layout: Layout, size: int | None) -> Layout:
        if size is None or layout.size == size:
            return layout
        self._found.tokens.freeze(layout, f"{self._name} makes an axis of another size of them")
        return fixed(size, f"{self._name} makes an axis of another size of them")
