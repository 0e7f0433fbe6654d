"""Load and save models: data stays mapped, nothing is lost, files appear whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx_ir as ir

from onnxopt import atomic, target, wire
from onnxopt.errors import BadModel
from onnxopt.external import DataFile, DataFiles, FileInfo, Origin, file_info, make_inline, place
from onnxopt.parse import open_file, parse, thin_copy
from onnxopt.reader import read_model
from onnxopt.skeleton import strip
from onnxopt.target import PROTO_LIMIT, External
from onnxopt.tensors import Region, Store, tensor_bytes
from onnxopt.writer import Slot, Written, write_model

__all__ = [
    "External",
    "FileInfo",
    "Source",
    "check_target",
    "file_info",
    "load",
    "model_bytes",
    "release",
    "save",
    "skeleton",
    "source_path",
    "split",
    "to_bytes",
    "to_proto",
]

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

_ENCODING = "names, documentation and metadata must be in UTF-8; export the model again"

MODEL = "onnxopt.model"
"""Key in the `meta` of a model's main graph: its `Origin`."""


def load(source: Source) -> ir.Model:
    """The model behind a path, bytes or a proto; an `ir.Model` comes back as it is.

    Large data stays where it is: in the mapped file, or in the bytes given. A proto is copied,
    so that neither it nor the model sees changes to the other.

    Raises:
        BadModel: It can't be read, is not an ONNX model, or its data files are missing, too short
            or outside of its folder.
    """
    if isinstance(source, ir.Model):
        return source
    with _collector_paused():
        if isinstance(source, onnx.ModelProto):
            proto, regions = thin_copy(source)
            return _read(proto, regions, None, None)
        if isinstance(source, bytes | bytearray | memoryview):
            store = Store(memoryview(source))
            return _read(*parse(store, "the data"), None, store)
        path = Path(source)
        store = open_file(path)
        return _read(*parse(store, str(path)), path, store)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one proto with all weights inside.

    Raises:
        BadModel: It is over 2 GB, more than a protobuf holds.
    """
    written = _written(model)
    slots = make_inline(written.slots)
    _refuse_too_large(slots)
    for slot in slots:
        slot.proto.raw_data = slot.tensor.tobytes()
    return written.proto


def to_bytes(model: ir.Model) -> bytes:
    """The model as it would be in one file: `to_proto(model).SerializeToString()`, only faster.

    Raises:
        BadModel: It is over 2 GB, more than a protobuf holds.
    """
    written = _written(model)
    slots = {slot.ticket: slot for slot in make_inline(written.slots)}
    _refuse_too_large(slots.values())
    chunks: list[Any] = []
    thin = written.proto.SerializeToString(deterministic=True)
    for data, ticket in wire.fatten(thin, lambda ticket: slots[ticket].length):
        chunks.append(data)
        if ticket is not None:
            chunks.append(slots[ticket].data())
    return b"".join(chunks)


def split(model: ir.Model, *, apart_bytes: int) -> tuple[onnx.ModelProto, dict[str, Slot]]:
    """The model without the initializers of the main graph that are large, and those by name.

    They keep type and shape in the proto; all other data is inside.

    Raises:
        BadModel: What stays inside is over 2 GB, more than a protobuf holds.
    """
    written = _written(model)
    outermost = {id(tensor) for tensor in written.proto.graph.initializer}
    apart: dict[str, Slot] = {}
    inside: list[Slot] = []
    for slot in make_inline(written.slots):
        if id(slot.proto) in outermost and slot.length >= apart_bytes:
            slot.proto.ClearField("raw_data")
            apart[slot.proto.name] = slot
        else:
            inside.append(slot)
    _refuse_too_large(inside)
    for slot in inside:
        slot.proto.raw_data = slot.tensor.tobytes()
    return written.proto, apart


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external: External = "keep",
    overwrite: bool = False,
) -> Path:
    """Write the model to `path`, in one move, so that no half-written file is ever seen.

    Args:
        model: The model; it is not changed.
        path: The file. Another model there is replaced, the one that was read is not.
        external: Where weights go. "keep": external tensors stay so, in files of the same names
            (other names where these would replace a file of another model), and what no longer
            fits into 2 GB goes to `<path>.data`. "inline": all into the model file. "file": all
            large ones to `<path>.data`.
        overwrite: Allow `path` to be the file that the model was read from.

    Returns:
        The path.

    Raises:
        BadOutput: It can't be written there.
        BadModel: Inline weights take more than 2 GB.
    """
    path = Path(path)
    origin = _origin(model)
    target.check(path, origin, overwrite)
    with _collector_paused():
        written = _written(model)
        slots, groups = target.group(written.slots, path, origin, external)
        with atomic.Files() as files:
            for location, members in groups:
                data_file = place(members, path.parent / location, location)
                _write_data(data_file, files.new(data_file.path))
            _refuse_too_large(slots)
            _write_proto(written.proto, slots, files.new(path))
            files.commit()
    release(model)
    return path


def check_target(model: ir.Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Find out early that `save` could not write there. Raises BadOutput."""
    target.check(Path(path), _origin(model), overwrite)


def skeleton(model: ir.Model, *, keep_bytes: int = 1024) -> onnx.ModelProto:
    """The model for onnx's checker and shape inference, without the weights.

    A constant of the main graph that takes over `keep_bytes` and lies apart (4 kB and more, or
    external) becomes a graph input of its type and shape. Integers stay up to 64 kB.
    """
    with _collector_paused():
        written = _written(model)
        strip(written.proto.graph, make_inline(written.slots), keep_bytes)
    return written.proto


def model_bytes(model: ir.Model) -> int:
    """The size of the model in bytes, as one file with all weights inside."""
    written = _written(model)
    return int(written.proto.ByteSize()) + sum(slot.length for slot in written.slots)


def source_path(model: ir.Model) -> Path | None:
    """The file that a model was loaded from, whatever has been changed since."""
    origin = _origin(model)
    return origin.path if origin is not None else None


def release(model: ir.Model) -> None:
    """Give the mapped pages of weights that have been read back to the system."""
    origin = _origin(model)
    for store in origin.stores if origin is not None else ():
        store.release()


def _origin(model: ir.Model) -> Origin | None:
    found = model.graph.meta.get(MODEL)
    return found if isinstance(found, Origin) else None


def _written(model: ir.Model) -> Written:
    origin = _origin(model)
    try:
        return write_model(model, origin.proto if origin is not None else None)
    except UnicodeError as error:
        raise BadModel(f"a text in the model is not UTF-8: {error}", hint=_ENCODING) from error


def _read(
    proto: onnx.ModelProto, regions: dict[bytes, Region], path: Path | None, store: Store | None
) -> ir.Model:
    files = DataFiles(path)

    def find(tensor: onnx.TensorProto) -> Region | None:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return files.locate(tensor)
        data = tensor.raw_data
        if not wire.is_ticket(data):
            return None
        region = regions[data]
        needed = tensor_bytes(tensor)
        if region.length != needed:
            raise BadModel(
                f"tensor {tensor.name!r} needs {needed} bytes of data and has {region.length}",
                hint="the file is damaged; copy, download or export it again",
            )
        return region

    try:
        model = read_model(proto, find)
    except (TypeError, UnicodeError) as error:
        # Text that is not UTF-8 comes as bytes, which the IR refuses in many places.
        raise BadModel(f"the model can't be read: {error}", hint=_ENCODING) from error
    stores = (*([store] if store is not None else []), *files.stores.values())
    model.graph.meta[MODEL] = Origin(proto, path, stores, tuple(files.stores))
    return model


def _refuse_too_large(slots: Iterable[Slot]) -> None:
    total = sum(slot.length for slot in slots)
    if total > PROTO_LIMIT:
        raise BadModel(
            f"{total / 1e9:.1f} GB of weights do not fit into one protobuf, which holds 2 GB",
            hint='save the model with external data (external="file")',
        )


def _write_data(data_file: DataFile, file: BinaryIO) -> None:
    if data_file.whole is not None:
        data_file.whole.copy(0, len(data_file.whole.view), file)
        return
    end = 0
    for piece in data_file.pieces:
        file.write(bytes(piece.offset - end))
        piece.slot.append_to(file)
        end = piece.offset + piece.slot.length


def _write_proto(proto: onnx.ModelProto, slots: Sequence[Slot], file: BinaryIO) -> None:
    by_ticket = {slot.ticket: slot for slot in slots}
    thin = proto.SerializeToString(deterministic=True)
    for data, ticket in wire.fatten(thin, lambda ticket: by_ticket[ticket].length):
        file.write(data)
        if ticket is not None:
            by_ticket[ticket].append_to(file)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection meanwhile: a graph is thousands of objects, and none are garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
