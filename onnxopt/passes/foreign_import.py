"""From an `ir.Model` to the graphsurgeon graph that a user's function edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.foreign_graph import (
    OverridableVariable,
    StoredValues,
    SurgeonFunction,
    SurgeonGraph,
    SurgeonNode,
    surgeon_dtype,
)
from onnxopt.passes.foreign_result import INITIALIZERS_STAND_ALONE
from onnxopt.passes.shapes import declared

_TENSOR_TYPES = {
    ir.SparseTensorType: "sparse_tensor_type",
    ir.SequenceType: "sequence_type",
    ir.OptionalType: "optional_type",
}


def import_model(model: ir.Model) -> SurgeonGraph:
    """The model as a graphsurgeon graph; constants keep pointing at the model's tensors.

    An initializer that a caller may override is a variable, because its data is only a default.
    """
    maker = _Importer(is_fixed(model), model.ir_version)
    functions = [maker.function(function) for function in model.functions.values()]
    return maker.graph(
        model.graph,
        opset=default_opset(model.graph.opset_imports),
        import_domains=_opset_protos(model.graph.opset_imports),
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=functions,
    )


def is_fixed(model: ir.Model) -> Callable[[ir.Value], bool]:
    """Tells of an initializer of the model whether it always holds its data."""
    old = model.ir_version is not None and model.ir_version < INITIALIZERS_STAND_ALONE
    return lambda value: old or ops.is_constant(value)


def default_opset(imports: dict[str, int]) -> int | None:
    """The version of the standard operators, None where none is imported."""
    return imports.get("", imports.get("ai.onnx"))


def described(value: ir.Value) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
    """The type and shape that are proven, or where nothing is, those that are declared."""
    type_, shape = declared(value)
    return value.type or type_, shape if value.shape is None else value.shape


def surgeon_shape(shape: ir.Shape | None) -> list[int | str | None] | None:
    """The dims as graphsurgeon shows them: sizes, names, and None for the unknown."""
    if shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def surgeon_type(type_: ir.TypeProtocol | None) -> tuple[Any, str]:
    """The element type and the kind of type as graphsurgeon shows them."""
    if type_ is None:
        return None, "tensor_type"
    return surgeon_dtype(type_.dtype), _TENSOR_TYPES.get(type(type_), "tensor_type")


def _opset_protos(imports: dict[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]


class _Importer:
    """Holds the tensors made so far, so that a captured value is one object in every graph."""

    def __init__(self, fixed: Callable[[ir.Value], bool], ir_version: int | None) -> None:
        self._fixed = fixed
        self._ir_version = ir_version
        self._tensors: dict[ir.Value, Any] = {}

    def graph(self, graph: ir.Graph, **fields: Any) -> SurgeonGraph:
        hidden = set(graph.initializers)
        return SurgeonGraph(
            nodes=[self._node(node, fields) for node in graph],
            inputs=[self._tensor(value) for value in graph.inputs if value.name not in hidden],
            outputs=[self._tensor(value) for value in graph.outputs],
            name=graph.name or "",
            doc_string=graph.doc_string or "",
            # Folding exports bodies and functions as models, which need a version as well.
            ir_version=self._ir_version,
            **fields,
        )

    def function(self, function: ir.Function) -> SurgeonFunction:
        opset = default_opset(function.opset_imports)
        domains = _opset_protos(function.opset_imports)
        scope = {"opset": opset, "import_domains": domains}
        made = SurgeonFunction(
            function.name,
            function.domain,
            nodes=[self._node(node, scope) for node in function],
            inputs=[self._tensor(value) for value in function.inputs],
            outputs=[self._tensor(value) for value in function.outputs],
            doc_string=function.doc_string or "",
            attrs={a.name: self.attribute(a, scope) for a in function.attributes.values()},
            ir_version=self._ir_version,
            **scope,
        )
        made.overload = function.overload
        return made

    def _node(self, node: ir.Node, scope: dict[str, Any]) -> SurgeonNode:
        inner = {key: scope[key] for key in ("opset", "import_domains")}
        return SurgeonNode(
            op=node.op_type,
            name=node.name or "",
            attrs={a.name: self.attribute(a, inner) for a in node.attributes.values()},
            inputs=[self._tensor(value) for value in node.inputs],
            outputs=[self._tensor(value) for value in node.outputs],
            domain=node.domain or None,
        )

    def _tensor(self, value: ir.Value | None) -> Any:
        if value is None or not value.name:
            return gs.Variable.empty()
        tensor = self._tensors.get(value)
        if tensor is None:
            tensor = self._tensors[value] = self._new_tensor(value)
        return tensor

    def _new_tensor(self, value: ir.Value) -> Any:
        default = value.const_value if value.is_initializer() else None
        if default is not None and self._fixed(value):
            return gs.Constant(value.name, StoredValues(default))
        kind = gs.Variable if default is None else OverridableVariable
        shown, shape = described(value)
        dtype, type_ = surgeon_type(shown)
        return kind(value.name, dtype, surgeon_shape(shape), type_)

    def attribute(self, attribute: ir.Attr, scope: dict[str, Any]) -> Any:
        """The value as graphsurgeon shows it; kinds it doesn't know come as protos."""
        kind, value = attribute.type, attribute.value
        if attribute.is_ref():
            number = onnx.AttributeProto.AttributeType.Value(kind.name)
            return gs.Node.AttributeRef(
                attribute.ref_attr_name, gs.util.misc.convert_from_onnx_attr_type(number)
            )
        if kind == ir.AttributeType.GRAPH:
            return self.graph(value, **scope)
        if kind == ir.AttributeType.GRAPHS:
            return [self.graph(graph, **scope) for graph in value]
        return surgeon_attribute(attribute)


def surgeon_attribute(attribute: ir.Attr) -> Any:
    """The value of an attribute without graphs as graphsurgeon shows it."""
    kind, value = attribute.type, attribute.value
    if kind == ir.AttributeType.TENSOR:
        return gs.Constant(value.name or "", StoredValues(value))
    if kind == ir.AttributeType.TENSORS:
        return [gs.Constant(tensor.name or "", StoredValues(tensor)) for tensor in value]
    if kind in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        proto = ir.to_proto(attribute)
        return proto.tp if kind == ir.AttributeType.TYPE_PROTO else list(proto.type_protos)
    return list(value) if isinstance(value, tuple) else value
