"""Turns a rule's answer into edits of the graph, each recorded in the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.errors import RuleError
from onnxopt.rewrite.build import NewConst, NewNode, NewOutput, infer_outputs
from onnxopt.rewrite.hit import OPSETS, Operand, Refused, Unmatched
from onnxopt.rewrite.journal import Entry, Journal, Removal, Replacement
from onnxopt.rewrite.match import Match
from onnxopt.rewrite.names import Names

RULE_KEY = "onnxopt.rule"
"""Metadata on a created node: the rules that made it, oldest first."""
SOURCE_KEY = "onnxopt.from"
"""Metadata on a created node: the nodes of the original model that it stands for."""


class Editor:
    """Applies answers to the graphs of one model.

    `as_nodes` makes every constant a Constant node: below IR version 4 an initializer must be a
    graph input too, and the inputs are not ours to change.
    """

    def __init__(self, graphs: Sequence[ir.Graph], *, as_nodes: bool = False) -> None:
        self.journal = Journal()
        self._names = Names(graphs)
        self._without_initializers = {
            id(graph) for graph in graphs if as_nodes or _is_function_body(graph, graphs)
        }
        self._unsorted: dict[ir.Graph, None] = {}

    def opsets(self, node: ir.Node) -> dict[str, int]:
        """The opsets that hold where `node` stands."""
        assert node.graph is not None
        opsets: dict[str, int] = node.graph.meta[OPSETS]
        return opsets

    def sort(self) -> None:
        """Put the nodes of edited graphs in topological order where an edit may have broken it."""
        for graph in self._unsorted:
            graph.sort()
        self._unsorted.clear()

    def apply(self, rule: str, found: Match, result: Any) -> list[ir.Node]:
        """Carry out `result` (see Rule.rewrite); gives the nodes worth another look."""
        pairs = _pairs(found, result)
        graph = found.root.graph
        assert graph is not None
        site = found.root.outputs[0].name or ""
        edit = _Edit(self, graph, rule, found)
        stand_ins = list(found.stand_ins())
        replacements = [edit.replace(old, new) for old, new in pairs]
        answers = {item.old: item.new for item in replacements}
        asked = [(old, Operand(answers[root])) for old, root in stand_ins if root in answers]
        replacements += [edit.replace(old, answer) for old, answer in asked]
        freed = [old.producer() for old, _ in pairs]
        removals = edit.remove_dead([*found.nodes, *(node for node in freed if node)])
        edit.settle_names()
        if isinstance(result, dict) or len(replacements) > 1:
            # What is replaced, or read, may stand after the root.
            self._unsorted[graph] = None
        entry = Entry(
            rule, site, graph, tuple(edit.added), tuple(edit.constants), tuple(replacements),
            tuple(removals),
        )  # fmt: skip
        self.journal.entries.append(entry)
        return edit.neighbours(removals)


class _Edit:
    """One application: makes what the rule described, at the root's place."""

    def __init__(self, editor: Editor, graph: ir.Graph, rule: str, found: Match) -> None:
        self._names = editor._names
        self._as_nodes = id(graph) in editor._without_initializers
        self._opsets = editor.opsets(found.root)
        self._graph = graph
        self._rule = rule
        self._found = found
        self._made: dict[Any, Any] = {}
        self._settled: set[ir.Value] = set()
        self.added: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._bases: dict[ir.Node, ir.Node] = {}

    def replace(self, old: ir.Value, new: Any) -> Replacement:
        """Let `new` take the place of `old` everywhere."""
        self._final = old
        value = self._value(new)
        if value is old:
            raise Unmatched
        if old.is_graph_output() and not self._may_be_output(value):
            value = self._identity(value)
        names = (old.name, value.name)
        fresh = value.producer() in self.added and value not in self._settled
        uses = tuple((node, index) for node, index in old.uses())
        slots = tuple(i for i, output in enumerate(self._graph.outputs) if output is old)
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        if fresh or slots:
            self._settled.add(value)
            _take_over(old, value, self._names)
        return Replacement(old, value, uses, slots, *names)

    def remove_dead(self, matched: Iterable[ir.Node]) -> list[Removal]:
        """Take out matched nodes that nothing reads any more, and what they alone kept alive."""
        removals: list[Removal] = []
        stack = list(matched)
        while stack:
            node = stack.pop(0)
            if node.graph is None or _is_read(node) or node in self.added:
                continue
            inputs = tuple(node.inputs)
            removals.append(Removal(node, inputs))
            owner = node.graph
            owner.remove(node, safe=True)
            if owner is not self._graph:
                raise RuleError(f"rule {self._rule} matched nodes of two graphs")
            for value in inputs:
                producer = None if value is None else value.producer()
                if producer is not None and producer.graph is self._graph:
                    stack.append(producer)
        return removals

    def neighbours(self, removals: Sequence[Removal]) -> list[ir.Node]:
        """New nodes, their readers, and the producers and readers of what was let go."""
        found: dict[ir.Node, None] = dict.fromkeys(self.added)
        for node in self.added:
            for value in node.outputs:
                found.update(dict.fromkeys(value.consumers()))
        for removal in removals:
            for operand in removal.inputs:
                if operand is None:
                    continue
                producer = operand.producer()
                if producer is not None:
                    found[producer] = None
                if len(operand.uses()) <= 8:
                    found.update(dict.fromkeys(operand.consumers()))
        return [node for node in found if node.graph is self._graph]

    def _value(self, item: Any) -> ir.Value:
        if isinstance(item, Operand):
            return item.value
        if isinstance(item, NewConst):
            if item not in self._made:
                self._made[item] = self._constant(item)
            made: ir.Value = self._made[item]
            return made
        if isinstance(item, NewOutput):
            self._make(item.node)
            output: ir.Value = self._made[item.node].outputs[item.index]
            return output
        raise RuleError(
            f"rule {self._rule} returned {item!r}",
            hint="return operands of the hit or outputs of new nodes",
        )

    def _make(self, last: NewNode) -> None:
        """Make a node, after all that it reads; chains may be longer than Python's stack."""
        stack = [last]
        while stack:
            new = stack[-1]
            inputs = [item.node for item in new.inputs if isinstance(item, NewOutput)]
            waiting = [node for node in inputs if node not in self._made]
            if new in self._made or not waiting:
                stack.pop()
                if new not in self._made:
                    self._made[new] = self._node(new)
            else:
                stack += waiting[::-1]

    def _node(self, new: NewNode) -> ir.Node:
        inputs = [None if item is None else self._value(item) for item in new.inputs]
        like = new.like.node if new.like is not None else None
        node = ir.Node(
            new.domain,
            new.op_type,
            inputs,
            list(new.attributes.values()),
            num_outputs=new.outputs,
            name=self._names.node((like or self._found.root).name or new.op_type),
            doc_string=like.doc_string if like is not None else None,
            metadata_props=self._lineage(),
        )
        for output in node.outputs:
            output.name = self._names.value(f"{self._final.name}_{new.op_type}")
        self._graph.insert_before(self._found.root, node)
        self.added.append(node)
        self._bases.setdefault(like or self._found.root, node)
        infer_outputs(node, self._opsets)
        return node

    def settle_names(self) -> None:
        """Hand the name of a node that went to the new node that stands for it."""
        for base, node in self._bases.items():
            if base.graph is None and base.name:
                node.name = base.name

    def _lineage(self) -> dict[str, str]:
        """Which rules and which original nodes stand behind a new node."""
        rules: dict[str, None] = {}
        sources: dict[str, None] = {}
        for node in reversed(self._found.nodes):
            known = node.metadata_props.get(SOURCE_KEY)
            sources.update(dict.fromkeys(known.split(", ") if known else [node.name or ""]))
            earlier = node.metadata_props.get(RULE_KEY)
            rules.update(dict.fromkeys(earlier.split(", ") if earlier else []))
        rules[self._rule] = None
        sources.pop("", None)
        return {RULE_KEY: ", ".join(rules), SOURCE_KEY: ", ".join(list(sources)[:16])}

    def _constant(self, new: NewConst) -> ir.Value:
        base = new.like.name if new.like is not None else f"{self._final.name}_constant"
        name = self._names.value(base)
        tensor = ir.tensor(new.array, dtype=new.dtype, name=name)
        if self._as_nodes:
            attribute = ir.AttrTensor("value", tensor)
            node = ir.Node("", "Constant", [], [attribute], name=self._names.node(name))
            node.outputs[0].name = name
            node.outputs[0].type = ir.TensorType(new.dtype)
            node.outputs[0].shape = ir.Shape(new.array.shape)
            self._graph.insert_before(self._found.root, node)
            self.added.append(node)
            return node.outputs[0]
        value = ir.Value(
            name=name, type=ir.TensorType(new.dtype), shape=ir.Shape(new.array.shape),
            const_value=tensor,
        )  # fmt: skip
        self._graph.register_initializer(value)
        self.constants.append(value)
        return value

    def _may_be_output(self, value: ir.Value) -> bool:
        """Whether the value can take over a graph output's name in this graph."""
        producer = value.producer()
        return (
            producer is not None and producer.graph is self._graph and not value.is_graph_output()
        )

    def _identity(self, value: ir.Value) -> ir.Value:
        if self._found.root.op_type == "Identity":
            raise Refused("it gives a graph output a name that no other node can give it")
        return self._node(NewNode("", "Identity", (Operand(value),), {}, 1, None)).outputs[0]


def _pairs(found: Match, result: Any) -> list[tuple[ir.Value, Any]]:
    if result is None or result == {}:
        raise Unmatched
    if isinstance(result, dict):
        return [(old.value, new) for old, new in result.items()]
    answers = list(result) if isinstance(result, tuple | list) else [result]
    if len(answers) != len(found.roots):
        raise RuleError(f"a pattern with {len(found.roots)} roots got {len(answers)} replacements")
    return list(zip(found.roots, answers, strict=True))


def _take_over(old: ir.Value, new: ir.Value, names: Names) -> None:
    """Give the new value the old one's name and facts; the old one steps aside under a new name."""
    name = old.name
    assert name is not None
    old.name = names.value(name)
    new.name = name
    if new.type is None or old.is_graph_output():
        new.type = old.type
    if new.shape is None or old.shape is not None:
        new.shape = old.shape
    new.doc_string = new.doc_string or old.doc_string
    new.metadata_props.update(old.metadata_props)
    for key, item in old.meta.items():
        new.meta[key] = item


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _is_function_body(graph: ir.Graph, graphs: Sequence[ir.Graph]) -> bool:
    """Whether the graph belongs to a local function, which can't hold initializers."""
    opsets = graph.meta.get(OPSETS)
    top = graphs[0].meta.get(OPSETS)
    return opsets is not top
