"""Replaces an If whose condition is known by the nodes of the branch that is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.fold_place import STANDALONE_INITIALIZERS
from onnxopt.passes.propagate import Facts, scopes


def taken_branch(node: ir.Node, facts: Facts) -> ir.Graph | None:
    """The branch that the If always takes; None if that depends on the run, or it is no If."""
    if not ops.is_standard(node, "If") or not node.inputs:
        return None
    known = facts.elements_of(node.inputs[0])
    numbers = None if known is None else known.numbers()
    if numbers is None or numbers.size != 1:
        return None
    attribute = node.attributes.get("then_branch" if numbers.reshape(-1)[0] else "else_branch")
    return None if attribute is None or attribute.is_ref() else attribute.as_graph()


class Inliner:
    """Moves branches into the graphs around them, keeping every name in the model unique."""

    def __init__(self, model: ir.Model) -> None:
        self._functions = {id(function.graph) for function in model.functions.values()}
        self._only_nodes = (model.ir_version or 0) < STANDALONE_INITIALIZERS
        self._values: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        for scope in scopes(model):
            self._count([scope if isinstance(scope, ir.Graph) else scope.graph], 1)

    def inline(self, node: ir.Node, branch: ir.Graph) -> list[ir.Node]:
        """Put the nodes of `branch` where the If stands; gives them.

        Values and nodes keep their names where those are free in the model. What the If gave out
        keeps its name if a graph gives it out.
        """
        graph = node.graph
        if graph is None:
            raise ValueError(f"{node.name} belongs to no graph")
        for body in ops.subgraphs(node):
            if body is not branch:
                self._discard(body)
        results = list(branch.outputs)
        branch.outputs.clear()
        made = self._move_initializers(branch, node, results)
        inner = [*made, *branch]
        branch.remove(list(branch))
        graph.insert_before(node, inner)
        for each in inner:
            self._settle(each)
        free = {value for each in inner for value in each.outputs}
        for old, new in zip(node.outputs, results, strict=True):
            self._stand_in(old, new, free, node)
        graph.remove(node, safe=True)
        return inner

    def _move_initializers(
        self, branch: ir.Graph, node: ir.Node, results: list[ir.Value]
    ) -> list[ir.Node]:
        """Give the initializers of the branch to the graph around it, as nodes where it must be."""
        graph, made = node.graph, []
        for name, value in list(branch.initializers.items()):
            del branch.initializers[name]
            if value.const_value is None or graph is None:
                continue
            if self._only_nodes or id(graph) in self._functions:
                constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
                value.replace_all_uses_with(constant.outputs[0])
                results[:] = [constant.outputs[0] if each is value else each for each in results]
                constant.outputs[0].name = name
                made.append(constant)
            else:
                value.name = self._free(name, self._values)
                graph.register_initializer(value)
        return made

    def _settle(self, node: ir.Node) -> None:
        """Rename what would be there twice."""
        if node.name:
            node.name = self._free(node.name, self._nodes)
        for value in node.outputs:
            if value.name:
                value.name = self._free(value.name, self._values)

    def _free(self, name: str, taken: Counter[str]) -> str:
        """`name` if only its bearer has it, else one that nobody has."""
        if taken[name] <= 1:
            return name
        taken[name] -= 1
        number = 1
        while taken[f"{name}_{number}"]:
            number += 1
        taken[f"{name}_{number}"] += 1
        return f"{name}_{number}"

    def _stand_in(self, old: ir.Value, new: ir.Value, free: set[ir.Value], node: ir.Node) -> None:
        """Let `new` take the place of what the If gave out as `old`."""
        if new in free:
            # It takes the name as well, and may do so once.
            free.discard(new)
            name, old.name = old.name, None
            self._values[new.name or ""] -= 1
            new.name = name
            new.meta.update(old.meta)
            new.metadata_props.update(old.metadata_props)
        elif old.is_graph_output():
            identity = ir.Node("", "Identity", [new], name=node.name)
            if node.graph is not None:
                node.graph.insert_before(node, identity)
            name, old.name = old.name, None
            new = identity.outputs[0]
            new.name = name
            new.meta.update(old.meta)
        if new.type is None:
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def _discard(self, body: ir.Graph) -> None:
        """Forget a branch that is never taken: its names are free, and it reads nothing more."""
        self._count([body, *body.subgraphs()], -1)
        for each in list(body.all_nodes()):
            for index in range(len(each.inputs)):
                each.replace_input_with(index, None)

    def _count(self, graphs: Iterable[ir.Graph], step: int) -> None:
        for graph in graphs:
            for value in _named(graph):
                self._values[value.name or ""] += step
            for node in graph:
                self._nodes[node.name or ""] += step


def _named(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs
