"""From an edited graphsurgeon graph back to an `ir.Model`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxopt.errors import BadModel
from onnxopt.passes.foreign_attributes import export_attribute
from onnxopt.passes.foreign_graph import StoredValues, SurgeonFunction
from onnxopt.passes.foreign_import import described, surgeon_shape, surgeon_type
from onnxopt.passes.foreign_restore import NodeIndex, values_of, with_listed
from onnxopt.passes.foreign_result import INITIALIZERS_STAND_ALONE, raised_past_listing
from onnxopt.passes.foreign_tensors import ir_dtype, new_tensor, same_tensor


def export_model(surgeon: Any, original: ir.Model) -> ir.Model:
    """The edited graph as a model; what the edit left alone is taken from `original`.

    Tensors, attributes, types and shapes that were not touched are the objects of `original`.
    Initializers that nothing read before, and those a caller may override, stay.

    Raises:
        BadModel: Two nodes make the same value, or two constants share a name.
    """
    scope = _Scope(surgeon, original.graph, None)
    homes = _homes([scope, *_inner_scopes(scope)])
    ir_version = original.ir_version if surgeon.ir_version is None else surgeon.ir_version
    graph = _Exporter(homes, ir_version).graph(scope)
    graph.opset_imports.update(_opset_imports(surgeon))
    if raised_past_listing(original, ir_version):
        graph.inputs[:] = [value for value in graph.inputs if not value.is_initializer()]
    functions = [_export_function(item, original) for item in surgeon.functions]
    return ir.Model(
        graph,
        ir_version=ir_version,
        producer_name=surgeon.producer_name or original.producer_name,
        producer_version=surgeon.producer_version or original.producer_version,
        functions=functions,
    )


@dataclass(eq=False)
class _Scope:
    """One graph of the edit, the graph it came from, and what is named in it."""

    surgeon: Any
    original: ir.Graph | ir.Function | None
    parent: _Scope | None
    inner: dict[tuple[int, str, int], _Scope] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.depth: int = self.parent.depth + 1 if self.parent else 0
        self.origins = NodeIndex(self.original or ())
        self.before = values_of(self.original) if self.original is not None else {}
        for position, node in enumerate(self.surgeon.nodes):
            origin = self.origin(node)
            for name, index, graph in _graph_attributes(node):
                body = _original_body(origin, name, index)
                self.inner[position, name, index] = _Scope(graph, body, self)

    def origin(self, node: Any) -> ir.Node | None:
        """The node of the original that `node` still is."""
        names = [tensor.name for tensor in node.outputs]
        return self.origins.find(node.op, node.domain or "", node.name, names)

    def find(self, name: str) -> ir.Value | None:
        """The value that `name` means here."""
        if name in self.values:
            return self.values[name]
        return self.parent.find(name) if self.parent else None

    def held(self, name: str) -> bool:
        """Whether the original graph has an initializer of that name."""
        return isinstance(self.original, ir.Graph) and name in self.original.initializers


def _graph_attributes(node: Any) -> Iterable[tuple[str, int, Any]]:
    for name, value in node.attrs.items():
        graphs = value if isinstance(value, (list, tuple)) else [value]
        for index, graph in enumerate(graphs):
            if isinstance(graph, gs.Graph):
                yield name, index, graph


def _original_body(origin: ir.Node | None, name: str, index: int) -> ir.Graph | None:
    attribute = origin.attributes.get(name) if origin is not None else None
    if attribute is None or attribute.is_ref():
        return None
    if attribute.type == ir.AttributeType.GRAPH:
        return attribute.as_graph()
    if attribute.type == ir.AttributeType.GRAPHS and index < len(attribute.value):
        body: ir.Graph = attribute.value[index]
        return body
    return None


def _inner_scopes(scope: _Scope) -> Iterable[_Scope]:
    for inner in scope.inner.values():
        yield inner
        yield from _inner_scopes(inner)


def _homes(scopes: Sequence[_Scope]) -> dict[_Scope, dict[str, Any]]:
    """The constants that each graph holds, by name.

    A constant stays in the graph that held it, so that branches which share it don't get a copy
    each; a new one goes to the innermost graph that all its readers can see.
    """
    found: dict[int, tuple[Any, _Scope]] = {}
    for scope in scopes:
        read = [tensor for node in scope.surgeon.nodes for tensor in node.inputs]
        for tensor in [*read, *scope.surgeon.outputs]:
            if isinstance(tensor, gs.Constant):
                _, home = found.get(id(tensor), (tensor, scope))
                found[id(tensor)] = (tensor, _common(home, scope))
    homes: dict[_Scope, dict[str, Any]] = {scope: {} for scope in scopes}
    for tensor, common in found.values():
        held = homes[_holder(common, tensor.name)]
        other = held.setdefault(tensor.name, tensor)
        if other is not tensor and not _same_values(other, tensor):
            raise BadModel(
                f"two different constants are called {tensor.name!r}",
                hint="give each constant a name of its own",
            )
    return homes


def _common(left: _Scope, right: _Scope) -> _Scope:
    while left is not right:
        deeper = left if left.depth >= right.depth else right
        parent = deeper.parent
        assert parent is not None
        left, right = (parent, right) if deeper is left else (left, parent)
    return left


def _holder(scope: _Scope, name: str) -> _Scope:
    outer: _Scope | None = scope
    while outer is not None:
        if outer.held(name):
            return outer
        outer = outer.parent
    return scope


def _same_values(left: Any, right: Any) -> bool:
    if left._values is right._values:
        return True
    return same_tensor(_tensor(left, None), _tensor(right, None))


def _tensor(constant: Any, before: ir.TensorProtocol | None) -> ir.TensorProtocol:
    """The constant's data; the original tensor where nothing changed it."""
    values = constant._values
    if isinstance(values, StoredValues):
        return values.origin
    if isinstance(values, LazyValues):
        made: ir.TensorProtocol = ir.from_proto(values.tensor)
    else:
        made = new_tensor(np.asarray(values), constant.export_dtype, constant.name)
    return before if before is not None and same_tensor(before, made) else made


class _Exporter:
    """Builds the graphs; knows which graph holds which constant."""

    def __init__(self, homes: Mapping[_Scope, Mapping[str, Any]], ir_version: int | None) -> None:
        self._homes = homes
        self._ir_version = ir_version or 0

    def graph(self, scope: _Scope) -> ir.Graph:
        surgeon, original = scope.surgeon, scope.original
        assert original is None or isinstance(original, ir.Graph)
        inputs = [self.declare(scope, tensor) for tensor in surgeon.inputs]
        initializers = self._initializers(scope)
        if original is not None:
            inputs = with_listed(inputs, initializers, original)
        nodes = self.nodes(scope)
        graph = ir.Graph(
            inputs,
            [self.read(scope, tensor) for tensor in surgeon.outputs],
            nodes=nodes,
            initializers=initializers,
            opset_imports=dict(original.opset_imports) if original is not None else None,
            doc_string=surgeon.doc_string or None,
            name=surgeon.name or None,
        )
        _sort_if_needed(graph)
        return graph

    def nodes(self, scope: _Scope) -> list[ir.Node]:
        for node in scope.surgeon.nodes:
            for tensor in node.outputs:
                if not tensor.is_empty():
                    self.declare(scope, tensor)
        constants = [c for c in self._homes[scope].values() if self._is_node(scope, c)]
        made = [self._constant_node(scope, constant) for constant in constants]
        return made + [self._node(scope, i, node) for i, node in enumerate(scope.surgeon.nodes)]

    def read(self, scope: _Scope, tensor: Any) -> ir.Value:
        """The value of a tensor in a place that reads it; one that nothing makes is made up."""
        return scope.find(tensor.name) or self.declare(scope, tensor)

    def _initializers(self, scope: _Scope) -> list[ir.Value]:
        original, held = scope.original, self._homes[scope]
        values = []
        for before in original.initializers.values() if isinstance(original, ir.Graph) else ():
            constant = held.get(before.name or "")
            if constant is not None:
                values.append(self._constant(scope, constant))
            elif before.name not in scope.values and self._stays(before):
                values.append(_stored_value(scope, before))
        names = {value.name for value in values}
        added = [c for name, c in held.items() if name not in names]
        return values + [self._constant(scope, c) for c in added if not self._is_node(scope, c)]

    def _stays(self, value: ir.Value) -> bool:
        unused = not value.uses() and not value.is_graph_output()
        return unused or value.is_graph_input()

    def _is_node(self, scope: _Scope, constant: Any) -> bool:
        """Whether a new constant has to be a node, as the format has no initializers there that
        are not inputs."""
        if isinstance(scope.surgeon, gs.Function):
            return True
        old = self._ir_version < INITIALIZERS_STAND_ALONE
        return old and not scope.held(constant.name)

    def _constant_node(self, scope: _Scope, constant: Any) -> ir.Node:
        value = self.declare(scope, constant)
        attribute = ir.AttrTensor("value", _tensor(constant, None))
        return ir.Node("", "Constant", [], [attribute], outputs=[value])

    def _constant(self, scope: _Scope, constant: Any) -> ir.Value:
        before = scope.before.get(constant.name)
        tensor = _tensor(constant, before.const_value if before is not None else None)
        if before is not None and before.const_value is tensor:
            return _stored_value(scope, before)
        value = self.declare(scope, constant)
        value.const_value = tensor
        return value

    def declare(self, scope: _Scope, tensor: Any) -> ir.Value:
        """A new value of the scope, described as the tensor is."""
        if tensor.name in scope.values:
            raise BadModel(
                f"value {tensor.name!r} is made twice",
                hint="take the outputs off a node that you replace: node.outputs.clear()",
            )
        before = scope.before.get(tensor.name)
        type_, shape = _type_and_shape(tensor, before)
        value = ir.Value(name=tensor.name, type=type_, shape=shape)
        scope.values[tensor.name] = value
        return value

    def _node(self, scope: _Scope, position: int, node: Any) -> ir.Node:
        origin = scope.origin(node)
        inner = {key[1:]: s for key, s in scope.inner.items() if key[0] == position}
        bodies = {key: functools.partial(self.graph, s) for key, s in inner.items()}
        known = origin.attributes if origin is not None else {}
        return ir.Node(
            node.domain or "",
            node.op,
            [None if t.is_empty() else self.read(scope, t) for t in node.inputs],
            [export_attribute(n, v, known.get(n), bodies) for n, v in node.attrs.items()],
            outputs=[
                ir.Value(name="") if t.is_empty() else scope.values[t.name] for t in node.outputs
            ],
            name=node.name,
        )


def _stored_value(scope: _Scope, before: ir.Value) -> ir.Value:
    """A new value that holds what `before` holds."""
    value = ir.Value(
        name=before.name, type=before.type, shape=before.shape, const_value=before.const_value
    )
    scope.values[before.name or ""] = value
    return value


def _type_and_shape(
    tensor: Any, before: ir.Value | None
) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
    constant = isinstance(tensor, gs.Constant)
    if before is not None and constant and before.is_graph_output():
        return before.type, before.shape
    dtype = tensor.export_dtype if constant else tensor.dtype
    kind = "tensor_type" if constant else tensor.type
    shape = None if tensor.shape is None else list(tensor.shape)
    type_: ir.TypeProtocol | None = _new_type(dtype, kind)
    if before is not None:
        shown, sizes = described(before)
        type_ = before.type if surgeon_type(shown) == (dtype, kind) else type_
        if surgeon_shape(sizes) == shape:
            return type_, before.shape
    return type_, None if shape is None else ir.Shape([_dim(dim) for dim in shape])


def _dim(dim: Any) -> int | str | None:
    if isinstance(dim, (int, np.integer)):
        return None if dim == gs.Tensor.DYNAMIC else int(dim)
    return None if dim is None else str(dim)


def _new_type(dtype: Any, kind: str) -> ir.TypeProtocol | None:
    if dtype is None:
        return None
    element = ir.TensorType(ir_dtype(dtype))
    if kind == "sparse_tensor_type":
        return ir.SparseTensorType(element.dtype)
    if kind == "sequence_type":
        return ir.SequenceType(element)
    return ir.OptionalType(element) if kind == "optional_type" else element


def _sort_if_needed(graph: ir.Graph) -> None:
    done: set[ir.Node] = set()
    for node in graph:
        makers = (value.producer() for value in node.inputs if value is not None)
        if any(m is not None and m.graph is graph and m not in done for m in makers):
            graph.sort()
            return
        done.add(node)


def _opset_imports(surgeon: Any) -> dict[str, int]:
    if surgeon.import_domains is None:
        imports = {"": surgeon.opset}
    else:
        imports = {item.domain: item.version for item in surgeon.import_domains}
    graphs = [surgeon, *surgeon.subgraphs(recursive=True)]
    used = {node.domain or "" for graph in graphs for node in graph.nodes}
    standard = "ai.onnx" in imports or surgeon.import_domains is None
    for domain in sorted(used - imports.keys()):
        if domain or not standard:
            imports[domain] = 1 if domain else surgeon.opset
    return imports


def _export_function(surgeon: Any, original: ir.Model) -> ir.Function:
    overload = surgeon.overload if isinstance(surgeon, SurgeonFunction) else ""
    before = original.functions.get((surgeon.domain or "", surgeon.name, overload))
    scope = _Scope(surgeon, before, None)
    exporter = _Exporter(_homes([scope, *_inner_scopes(scope)]), original.ir_version)
    inputs = [exporter.declare(scope, tensor) for tensor in surgeon.inputs]
    nodes = exporter.nodes(scope)
    graph = ir.Graph(
        inputs,
        [exporter.read(scope, tensor) for tensor in surgeon.outputs],
        nodes=nodes,
        opset_imports=_opset_imports(surgeon),
        name=before.graph.name if before is not None else None,
        doc_string=surgeon.doc_string or None,
    )
    _sort_if_needed(graph)
    known = before.attributes if before is not None else {}
    attributes = [
        ir.Attr(name, ir.AttributeType.UNDEFINED, None)
        if value is None
        else export_attribute(name, value, known.get(name), {})
        for name, value in surgeon.attrs.items()
    ]
    return ir.Function(
        surgeon.domain or "", surgeon.name, overload, graph=graph, attributes=attributes
    )
