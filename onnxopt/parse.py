"""Turns files, bytes and protos into thin protos, whose large data stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxopt import wire
from onnxopt.errors import BadModel
from onnxopt.setaside import put_unknown
from onnxopt.tensors import DTYPES, Region, Store, tensor_bytes

# What people give by mistake: how such files begin, what they are, what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, maybe a PyTorch or Keras model", "export it to ONNX first"),
    (b"\x89HDF", "an HDF5 file, maybe a Keras model", "convert it with tf2onnx first"),
    (b"\x80", "a pickle, maybe a PyTorch checkpoint", "export the model to ONNX first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
)


def open_file(path: Path) -> Store:
    if path.is_dir():
        raise BadModel(f"{path} is a folder", hint="give the path of the .onnx file in it")
    try:
        return Store.open(path)
    except OSError as error:
        raise BadModel(
            f"{path} can't be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def parse(store: Store, what: str) -> tuple[onnx.ModelProto, dict[bytes, Region]]:
    """The thin proto of a serialized model, and the data that its tickets stand for."""
    start = bytes(store.view[:32])
    for magic, name, hint in _OTHERS:
        if start.startswith(magic):
            raise BadModel(f"{what} is {name}, not an ONNX model", hint=hint)
    if start[4:8] in (b"ORTM", b"TFL3"):
        name = "ORT format" if start[4:8] == b"ORTM" else "TensorFlow Lite"
        raise BadModel(f"{what} is in {name}", hint="give the .onnx file that it was made from")
    proto = onnx.ModelProto()
    try:
        thin, spans = wire.thin(store.view)
        proto.ParseFromString(thin)
    except (wire.MalformedError, DecodeError) as error:
        raise BadModel(
            f"{what} is not an ONNX model or is cut off: {error}",
            hint="copy or download it again, or export it again",
        ) from error
    if not proto.HasField("graph"):
        raise BadModel(f"{what} holds no ONNX graph", hint="give a model in ONNX's binary format")
    return proto, {span.ticket: store.region(span.start, span.length) for span in spans}


def thin_copy(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[bytes, Region]]:
    """A copy of a proto in memory whose large initializers are tickets, without a copy of those."""
    copy = onnx.ModelProto()
    tensors = proto.graph.initializer
    if not any(_is_large(tensor) for tensor in tensors):
        copy.CopyFrom(proto)
        return copy, {}
    regions: dict[bytes, Region] = {}
    _copy_fields(proto, copy, "graph")
    _copy_fields(proto.graph, copy.graph, "initializer")
    for tensor in tensors:
        target = copy.graph.initializer.add()
        if not _is_large(tensor):
            target.CopyFrom(tensor)
            continue
        _copy_fields(tensor, target, "raw_data")
        data = memoryview(tensor.raw_data)
        target.raw_data = wire.new_ticket()
        regions[target.raw_data] = Store(data).region(0, len(data))
    return copy, regions


def _is_large(tensor: onnx.TensorProto) -> bool:
    if not tensor.HasField("raw_data") or tensor.data_type not in DTYPES:
        return False
    return tensor_bytes(tensor) >= wire.LARGE


def _copy_fields(source: Any, target: Any, without: str) -> None:
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
    put_unknown(source, target)


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, those in attributes and bodies too."""
    graphs: list[Any] = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
