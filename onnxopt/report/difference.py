"""What differs between the graphs of two models, matched by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.bench.cost import op_name
from onnxopt.rewrite.apply import RULE_KEY, SOURCE_KEY

Kind = Literal["model", "input", "output", "node", "weight", "function"]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is only in A (`after` is empty), only in B (`before` is empty), or differs.

    `name` has the graphs it stands in before it: "If_3/then_branch/Conv_1". `rule` names the rules
    that made a node of B, `source` the nodes it stands for, both empty for a node that none made.
    """

    kind: Kind
    name: str
    before: str
    after: str
    rule: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from A to B, in the order of the graphs, and how many things are the same.

    `a` and `b` are the models' names, `ops_a` and `ops_b` count their nodes by operator.
    """

    a: str
    b: str
    changes: tuple[Change, ...]
    ops_a: Mapping[str, int]
    ops_b: Mapping[str, int]
    same_nodes: int
    same_weights: int


def difference(a: ir.Model, b: ir.Model, *, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Compare two models by the names of their nodes and values.

    A node without a name goes by the name of its first output.
    """
    changes: list[Change] = [*_model_changes(a, b), *_port_changes(a.graph, b.graph)]
    nodes_a, nodes_b = dict(_nodes(a)), dict(_nodes(b))
    weights_a, weights_b = dict(_weights(a)), dict(_weights(b))
    changes += (
        _with_lineage(change, nodes_b.get(change.name))
        for change in _changes("node", nodes_a, nodes_b, _node_text)
    )
    changes += _changes("weight", weights_a, weights_b, _weight_text, _same_weight)
    changed = {(change.kind, change.name) for change in changes}
    return Difference(
        *names,
        tuple(changes),
        dict(sorted(Counter(map(op_name, nodes_a.values())).items())),
        dict(sorted(Counter(map(op_name, nodes_b.values())).items())),
        sum(("node", name) not in changed for name in nodes_b),
        sum(("weight", name) not in changed for name in weights_b),
    )


def _changes(
    kind: Kind,
    a: Mapping[str, Item],
    b: Mapping[str, Item],
    text: Callable[[Item], str],
    same: Callable[[Item, Item], bool] | None = None,
) -> Iterator[Change]:
    for name in dict.fromkeys((*a, *b)):
        before = text(a[name]) if name in a else ""
        after = text(b[name]) if name in b else ""
        if before != after:
            yield Change(kind, name, before, after)
        elif same is not None and not same(a[name], b[name]):
            yield Change(kind, name, before, f"{after}, other numbers")


def _model_changes(a: ir.Model, b: ir.Model) -> Iterator[Change]:
    yield from _changes("model", _model_facts(a), _model_facts(b), str)
    functions_a = {f"{key[0]}.{key[1]}": _function_text(f) for key, f in a.functions.items()}
    functions_b = {f"{key[0]}.{key[1]}": _function_text(f) for key, f in b.functions.items()}
    yield from _changes("function", functions_a, functions_b, str)


def _model_facts(model: ir.Model) -> dict[str, str]:
    facts = {f"opset of {domain or 'ai.onnx'}": str(v) for domain, v in model.opset_imports.items()}
    facts["IR version"] = str(model.ir_version)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        value = getattr(model, field)
        if value:
            facts[field] = str(value)
    return facts | {f"metadata {key}": value for key, value in model.metadata_props.items()}


def _function_text(function: ir.Function) -> str:
    inputs = ", ".join(value.name or "" for value in function.inputs)
    return f"({inputs}), {len(function)} nodes"


def _port_changes(a: ir.Graph, b: ir.Graph) -> Iterator[Change]:
    yield from _changes("input", _ports(a.inputs), _ports(b.inputs), str)
    yield from _changes("output", _ports(a.outputs), _ports(b.outputs), str)


def _ports(values: Any) -> dict[str, str]:
    return {value.name or "": f"{value.type}{value.shape or ''}" for value in values}


def _bodies(model: ir.Model) -> Iterator[tuple[str, Any]]:
    """Every graph with the way to it, "" for the main one."""
    stack: list[tuple[str, Any]] = [("", model.graph)]
    stack += [(f"{key[0]}.{key[1]}/", function) for key, function in model.functions.items()]
    while stack:
        way, body = stack.pop(0)
        yield way, body
        for node in body:
            for attribute in node.attributes.values():
                graphs = _graphs_of(attribute)
                for index, graph in enumerate(graphs):
                    place = attribute.name if len(graphs) == 1 else f"{attribute.name}[{index}]"
                    stack.append((f"{way}{_node_name(node)}/{place}/", graph))


def _graphs_of(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else ()


def _nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    for way, body in _bodies(model):
        for node in body:
            if not ops.is_standard(node, "Constant"):
                yield way + _node_name(node), node


def _node_name(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), "?")


def _weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Initializers and Constant nodes alike: which of the two holds a tensor changes nothing."""
    for way, body in _bodies(model):
        for name, value in getattr(body, "initializers", {}).items():
            if value.const_value is not None:
                yield way + name, value.const_value
        for node in body:
            tensor = ops.constant(node.outputs[0]) if node.op_type == "Constant" else None
            if tensor is not None:
                yield way + (node.outputs[0].name or ""), tensor


def _node_text(node: ir.Node) -> str:
    inputs = ", ".join((value.name or "") if value is not None else "" for value in node.inputs)
    outputs = ", ".join(value.name or "" for value in node.outputs)
    attributes = ", ".join(
        f"{name} = {_attribute_text(node.attributes[name])}" for name in sorted(node.attributes)
    )
    marked = f" <{attributes}>" if attributes else ""
    return f"{outputs} = {op_name(node)}{marked}({inputs})"


def _attribute_text(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if _graphs_of(attribute):
        return "graph"
    if attribute.type == ir.AttributeType.TENSOR:
        return _weight_text(attribute.as_tensor())
    text = str(attribute.value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _weight_text(tensor: ir.TensorProtocol) -> str:
    return f"{tensor.dtype.name}{list(tensor.shape.numpy())}"


def _same_weight(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    if a is b:
        return True
    if a.dtype == ir.DataType.STRING:
        return list(a.numpy().flat) == list(b.numpy().flat)
    left, right = np.asarray(a.numpy()), np.asarray(b.numpy())
    return left.tobytes() == right.tobytes()


def _with_lineage(change: Change, node: ir.Node | None) -> Change:
    if node is None:
        return change
    rule = node.metadata_props.get(RULE_KEY, "")
    return replace(change, rule=rule, source=node.metadata_props.get(SOURCE_KEY, ""))
