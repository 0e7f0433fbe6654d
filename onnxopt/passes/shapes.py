"""Types and shapes: what the model declares, kept aside, and what can be proven, on the values.

While passes run, `value.type` and `value.shape` hold proven facts only. What the model declared is
kept in `value.meta` and comes back when the model is saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.outline import input_dims, outline
from onnxopt.passes.propagate import Annotation, Facts
from onnxopt.passes.propagate_walk import propagate
from onnxopt.passes.symbols import is_followed
from onnxopt.passes.types import output_types

DECLARED = "onnxopt.declared"
FACTS = "onnxopt.facts"

Declaration = tuple["ir.TypeProtocol | None", "ir.Shape | None"]

_NOTHING: Declaration = (None, None)


def remember(model: ir.Model) -> None:
    """Keep the type and shape that each value is declared with; a second call changes nothing."""
    if DECLARED in model.graph.meta:
        return
    ops.mark_constants(model)
    for graph in _all_graphs(model):
        for value in _values(graph):
            if value.type is not None or value.shape is not None:
                value.meta[DECLARED] = (value.type, _copy(value.shape))
    # Outputs by name as well: a pass may put a new value in the place of one.
    model.graph.meta[DECLARED] = {value.name: _now(value) for value in model.graph.outputs}


def remember_anew(model: ir.Model) -> None:
    """Take the annotations of a model that another tool has edited as the declared ones."""
    model.graph.meta.pop(DECLARED, None)
    for graph in _all_graphs(model):
        for value in _values(graph):
            value.meta.pop(DECLARED, None)
    infer(model)


def restore(model: ir.Model) -> None:
    """Put back what `remember` kept; values made since then lose their annotations.

    A declaration that a proven fact contradicts is dropped, except on inputs and outputs of the
    model: those are its interface.
    """
    if DECLARED not in model.graph.meta:
        return
    for graph in _all_graphs(model):
        for value in _values(graph):
            kept: Declaration = value.meta.get(DECLARED, _NOTHING)
            if not value.is_graph_input() and _contradicts(value, kept):
                kept = _NOTHING
            if kept[0] is None and value.is_graph_output():
                kept = _of_constant(value)
            value.type, value.shape = kept[0], _copy(kept[1])
    outputs: dict[str | None, Declaration] = model.graph.meta[DECLARED]
    for value in model.graph.outputs:
        kept = outputs.get(value.name, _NOTHING)
        value.type, value.shape = kept[0], _copy(kept[1])


def _of_constant(value: ir.Value) -> Declaration:
    """What an initializer is; ONNX's inference does not see that where a body gives one out."""
    tensor = value.const_value if value.is_initializer() else None
    if tensor is None:
        return _NOTHING
    return ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())


def declared(value: ir.Value) -> Declaration:
    """The type and shape that the value will be saved with."""
    graph = value.graph
    if graph is not None and value.is_graph_output() and DECLARED in graph.meta:
        outputs: dict[str | None, Declaration] = graph.meta[DECLARED]
        return outputs.get(value.name, _NOTHING)
    kept: Declaration | None = value.meta.get(DECLARED)
    return _now(value) if kept is None else kept


def declared_copy(model: ir.Model) -> ir.Model:
    """A copy of the model as it would be saved."""
    copy = model.clone()
    restore(copy)
    return copy


def keep_facts(model: ir.Model) -> None:
    """Infer now, for whoever asks `facts_of` next; only to be used while nothing else edits."""
    model.graph.meta[FACTS] = (model.graph, infer(model))


def facts_grow_old(model: ir.Model) -> None:
    """Forget what `keep_facts` kept, because the model is about to change."""
    model.graph.meta.pop(FACTS, None)


def facts_of(model: ir.Model) -> Facts:
    """What `keep_facts` found, handed out once, else what `infer` finds now."""
    graph, facts = model.graph.meta.pop(FACTS, (None, None))
    return facts if graph is model.graph and facts is not None else infer(model)


def infer(model: ir.Model) -> Facts:
    """Write what can be proven about types and shapes to the values, and give all that was found.

    Only graph inputs and constants are believed. Dims that are not known by number carry a name:
    two dims with one name are equal in every run. Raises nothing for a model that is wrong: what
    can't be found out stays unknown.
    """
    remember(model)
    facts = _found_alone(model) or propagate(model, _inferred(model))
    for value, dims in facts.dims.items():
        if not value.is_graph_input():
            value.shape = ir.Shape([dim if isinstance(dim, int) else str(dim) for dim in dims])
    return facts


def _found_alone(model: ir.Model) -> Facts | None:
    """What our own rules find where they find everything, as in most convolutional models.

    There ONNX's inference, which takes most of the time, has nothing to add. The types are written
    to the values.
    """
    if model.functions:
        return None
    for value in _values(model.graph):
        _forget(value)
    found: dict[ir.Value, Annotation] = {}
    for value in model.graph.inputs:
        dims = input_dims(value)
        if dims is None:
            return None
        value.shape, found[value] = ir.Shape(dims), tuple(dims)
    for node in model.graph:
        types = output_types(node)
        if types is None:
            return None
        for value, type_ in zip(node.outputs, types, strict=True):
            value.type = type_
    facts = propagate(model, found)
    everything = (facts.dims_of(value) for node in model.graph for value in node.outputs)
    return (
        facts
        if all(dims is not None and all(map(is_followed, dims)) for dims in everything)
        else None
    )


def _inferred(model: ir.Model) -> dict[ir.Value, Annotation]:
    """The dims that ONNX's own inference finds; the types it finds are written to the values."""
    for graph in _all_graphs(model):
        for value in _values(graph):
            _forget(value)
    for value in _rounds(model):
        value.type, value.shape = declared(value)
    proto = outline(model)
    # What it raises for a malformed model has no common base.
    with contextlib.suppress(Exception):
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    found: dict[ir.Value, Annotation] = {}
    for value in model.graph.inputs:
        if (dims := input_dims(value)) is not None:
            value.shape = ir.Shape(dims)
            found[value] = tuple(dims)
    _take(model.graph, proto.graph, found)
    return found


def _forget(value: ir.Value) -> None:
    """Drop an annotation that is not known to be true."""
    tensor = ops.constant(value)
    if value.is_graph_input() and value.graph is not None and _is_main(value.graph):
        value.type, value.shape = declared(value)
    elif tensor is not None:
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    else:
        value.type = value.shape = None


def _rounds(model: ir.Model) -> Iterator[ir.Value]:
    """The number of the round and the condition in bodies of Loops.

    They are what the body declares, a scalar or a vector of one: onnxruntime makes them so, and
    refuses a body that does not say.
    """
    for graph in _all_graphs(model):
        for node in graph:
            if ops.is_standard(node, "Loop") and "body" in node.attributes:
                yield from node.attributes["body"].as_graph().inputs[:2]


def _is_main(graph: ir.Graph) -> bool:
    return DECLARED in graph.meta


def _take(graph: ir.Graph, proto: onnx.GraphProto, found: dict[ir.Value, Annotation]) -> None:
    """Read the types and shapes in `proto` off for the values of the graph and its bodies."""
    types: dict[str, onnx.TypeProto] = {}
    for infos in (proto.value_info, proto.output, proto.input):
        types.update((info.name, info.type) for info in infos if info.type.WhichOneof("value"))
    if not _is_main(graph):
        for value in graph.inputs:
            _annotate(value, types, found)
    for node, inner in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            _annotate(value, types, found)
        if any(attribute.type in _GRAPHS for attribute in inner.attribute):
            for body, inner_graph in zip(ops.subgraphs(node), _bodies(inner), strict=True):
                _take(body, inner_graph, found)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _annotate(
    value: ir.Value, types: dict[str, onnx.TypeProto], found: dict[ir.Value, Annotation]
) -> None:
    proto = types.get(value.name or "")
    if proto is None:
        return
    if not proto.HasField("tensor_type"):
        # A map is a type that the IR has no word for.
        with contextlib.suppress(ir.serde.SerdeError):
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
        return
    tensor = proto.tensor_type
    if tensor.elem_type:
        value.type = ir.TensorType(ir.DataType(tensor.elem_type))
    if tensor.HasField("shape"):
        found[value] = tuple(_known(dim) for dim in tensor.shape.dim)


def _known(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None


def _now(value: ir.Value) -> Declaration:
    return value.type, _copy(value.shape)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _contradicts(value: ir.Value, kept: Declaration) -> bool:
    """Whether what is proven of the value and its declaration can't both be true."""
    proven, shape = value.shape, kept[1]
    if value.type is not None and kept[0] is not None and value.type != kept[0]:
        return True
    if proven is None or shape is None:
        return False
    if proven.rank() != shape.rank():
        return True
    pairs = zip(proven, shape, strict=True)
    return any(
        isinstance(one, int) and isinstance(other, int) and one != other for one, other in pairs
    )


def _all_graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function
        yield from function.subgraphs()


def _values(graph: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    """The values a graph owns: inputs, initializers and node outputs."""
    yield from graph.inputs
    if isinstance(graph, ir.Graph):
        yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs
