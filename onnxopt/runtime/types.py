"""The types that onnxruntime finds: it knows the operators of its own domains."""

from __future__ import annotations

import contextlib

import onnx_ir as ir

from onnxopt.errors import RuntimeFailed
from onnxopt.runtime.sessions import Session


def complete(model: ir.Model) -> None:
    """Write element types to the values of the main graph that have no type yet, in place.

    Behind an operator that ONNX does not know its inference finds none. Values that onnxruntime
    can't tell of either stay as they are, as do sequences and whatever else is no tensor.
    """
    lacking = {
        value.name: value
        for node in model.graph
        for value in node.outputs
        if value.name and value.type is None
    }
    if not lacking:
        return
    copy = model.clone()
    shown = set(copy.graph.outputs)
    every = [value for node in copy.graph for value in node.outputs if value.name in lacking]
    copy.graph.outputs.extend(value for value in every if value not in shown)
    with contextlib.suppress(RuntimeFailed):
        for found in Session.open(copy, optimize=False).outputs:
            if found.name in lacking and found.is_tensor:
                lacking[found.name].type = ir.TensorType(ir.DataType[found.element.upper()])
