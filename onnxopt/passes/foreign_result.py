"""Whether a foreign pass changed a model, and how the model takes over the result."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

INITIALIZERS_STAND_ALONE = 4
"""The IR version from which an initializer need not be listed as a graph input."""


def raised_past_listing(original: ir.Model, ir_version: int | None) -> bool:
    """Whether a new IR version would make inputs of initializers that nobody could feed before."""
    old = (original.ir_version or INITIALIZERS_STAND_ALONE) < INITIALIZERS_STAND_ALONE
    return old and (ir_version or 0) >= INITIALIZERS_STAND_ALONE


def replace_contents(model: ir.Model, result: ir.Model) -> None:
    """Let `model` hold everything that `result` holds; `result` must not be used after it."""
    model.graph = result.graph
    model.functions.clear()
    model.functions.update(result.functions)
    model.metadata_props.clear()
    model.metadata_props.update(result.metadata_props)
    model.meta.update(result.meta)
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version"):
        setattr(model, name, getattr(result, name))
    model.doc_string = result.doc_string
    model.device_configurations = result.device_configurations


def fingerprint(model: ir.Model) -> tuple[Any, ...]:
    """Equal for two models that share their untouched tensors and attributes and agree else."""
    functions = [
        (key, _graph_print(function), [*map(_attribute_print, function.attributes.values())])
        for key, function in model.functions.items()
    ]
    return (
        _graph_print(model.graph),
        functions,
        dict(model.opset_imports),
        model.ir_version,
        dict(model.metadata_props),
    )


def _graph_print(graph: ir.Graph | ir.Function) -> tuple[Any, ...]:
    stored = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
    edge = [(v.name, v.type, v.shape) for v in (*graph.inputs, *graph.outputs)]
    held = {(value.name, id(value.const_value)) for value in stored}
    nodes = [
        (
            (node.op_type, node.domain, node.overload, node.name),
            tuple(value.name if value is not None else "" for value in node.inputs),
            tuple(value.name for value in node.outputs),
            [_attribute_print(attribute) for attribute in node.attributes.values()],
        )
        for node in graph
    ]
    return edge, held, nodes


def _attribute_print(attribute: ir.Attr) -> Any:
    key = (attribute.name, attribute.type, attribute.ref_attr_name)
    if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
        return key, _graph_print(attribute.as_graph())
    if attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
        return key, [_graph_print(graph) for graph in attribute.as_graphs()]
    tensors = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)
    return key, id(attribute.value) if attribute.type in tensors else attribute.value
