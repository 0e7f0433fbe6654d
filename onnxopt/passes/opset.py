"""Raises a model's opset, by ONNX's own version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxopt.errors import BadInput
from onnxopt.passes.base import Context
from onnxopt.passes.foreign import foreign_pass

_LARGE = 1 << 16
"""Constants of so many bytes and more can't be what an operator's new form is chosen by."""


def raise_opset(model: ir.Model, version: int) -> None:
    """Bring the default domain to `version`, in place; what it already has stays as it is.

    Raises:
        BadInput: The version is older than the model's, newer than onnx knows, or onnx's converter
            does not know the way for one of the operators.
    """
    now = model.opset_imports.get("", 0)
    newest = onnx.defs.onnx_opset_version()
    if version == now:
        return
    if version < now:
        raise BadInput(
            f"the model has opset {now}, and {version} is older",
            hint="--opset only raises it; leave it out to keep the opset",
        )
    if version > newest:
        raise BadInput(
            f"the installed onnx knows opsets up to {newest}, not {version}",
            hint="give an older opset, or install a newer onnx",
        )

    def convert(proto: onnx.ModelProto) -> onnx.ModelProto:
        converted = onnx.version_converter.convert_version(proto, version)
        needed = onnx.helper.find_min_ir_version_for(list(converted.opset_import), True)
        converted.ir_version = max(proto.ir_version, needed)
        return converted

    # The converter copies what it is given several times over.
    apart = _take_out(model.graph)
    try:
        foreign_pass(convert, name="opset").run(model, Context())
    except Exception as error:  # the converter raises bare RuntimeErrors
        raise BadInput(
            f"the opset can't be raised from {now} to {version}: {str(error).splitlines()[0]}",
            hint="export the model again with a newer opset",
        ) from error
    finally:
        _put_back(model.graph, apart)


def _take_out(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the large initializers, and give their tensors by name."""
    found: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LARGE or value.is_graph_input():
            continue
        if value.is_graph_output():
            continue
        found[name] = tensor
        value.type = value.type or ir.TensorType(tensor.dtype)
        value.shape = value.shape or ir.Shape(tensor.shape.numpy())
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    return found


def _put_back(graph: ir.Graph, apart: dict[str, ir.TensorProtocol]) -> None:
    for value in [each for each in graph.inputs if each.name in apart]:
        graph.inputs.remove(value)
        value.const_value = apart[value.name or ""]
        graph.register_initializer(value)
