"""Which nodes onnxruntime really computes in 16-bit floats, and which between casts of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from onnxopt.passes import shapes
from onnxopt.quantize.half import WORDS
from onnxopt.quantize.proof import FLOAT, NodeProof, Proof
from onnxopt.runtime.providers import CPU, Provider, name_of
from onnxopt.runtime.sessions import optimized_graph

_KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def prove_half(
    model: ir.Model, dtype: ir.DataType, providers: Sequence[Provider] = (CPU,)
) -> Proof:
    """Say of each node that gives 16-bit numbers whether the provider computes in them.

    A node that was computed when the model was loaded is left out.

    Raises:
        RuntimeFailed: The provider can't load the model.
    """
    found: dict[str, bool] = {}
    for node, kind in _typed(optimized_graph(model, providers).graph, {}):
        narrow = kind == dtype.value
        found |= {name: narrow for name in node.output if name not in found}
        found[node.name] = narrow
    typed = model.clone()
    shapes.infer(typed)
    nodes = []
    for each in typed.graph.all_nodes():
        given = [value.name or "" for value in each.outputs if value.dtype is dtype]
        if each.op_type in ("Cast", "Constant") or not given:
            continue
        half = found.get(each.name or "", found.get(given[0]))
        if half is not None:
            nodes.append(_proof(each, dtype, half))
    return Proof(tuple(nodes), {}, tuple(name_of(provider) for provider in providers))


def _typed(
    graph: onnx.GraphProto, outer: Mapping[str, int]
) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Each node with the type of the floats that it computes with, 0 where it has none."""
    types = dict(outer)
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        read = (types.get(name, 0) for name in node.input)
        kind = next((each for each in read if each in _KINDS), 0)
        given = kind
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                given = attribute.i
            elif attribute.type == onnx.AttributeProto.TENSOR and node.op_type.startswith("Const"):
                kind = given = attribute.t.data_type
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _typed(attribute.g, types)
        types |= dict.fromkeys(node.output, given)
        yield node, kind


def _proof(node: ir.Node, dtype: ir.DataType, half: bool) -> NodeProof:
    name, word = node.name or "", WORDS[dtype]
    if half:
        return NodeProof(name, node.op_type, f"{node.op_type} of {word}", True, True)
    return NodeProof(
        name, node.op_type, FLOAT, False, True, "no-half-kernel",
        f"onnxruntime's CPU provider has no {node.op_type} of {word}, and casts around it",
        "run it on a GPU",
    )  # fmt: skip
