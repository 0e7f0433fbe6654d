"""Raises a model's opset, by ONNX's own version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxopt.errors import BadInput
from onnxopt.passes.base import Context
from onnxopt.passes.foreign import foreign_pass


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

    try:
        foreign_pass(convert, name="opset").run(model, Context())
    except Exception as error:  # the converter raises bare RuntimeErrors
        raise BadInput(
            f"the opset can't be raised from {now} to {version}: {str(error).splitlines()[0]}",
            hint="export the model again with a newer opset",
        ) from error
