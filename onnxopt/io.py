"""Load and save models: data stays mapped, nothing is lost, files appear whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxopt import external as external_data
from onnxopt import wire
from onnxopt.atomic import Files
from onnxopt.errors import BadModel, BadOutput
from onnxopt.reader import read_model
from onnxopt.setaside import put_unknown
from onnxopt.skeleton import strip
from onnxopt.tensors import DTYPES, Region, Store, StoredTensor
from onnxopt.writer import Slot, Written, write_model

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
External = Literal["keep", "inline", "file"]

MODEL = "onnxopt.model"
"""Key in the `meta` of a model's main graph: its `Origin`."""

PROTO_LIMIT = (1 << 31) - 1
"""The largest protobuf message in bytes."""

_ROOM = 1 << 24
"""Bytes kept free below that limit, for the graph to grow."""

# What people give by mistake: how such files begin, what they are, what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, maybe a PyTorch or Keras model", "export it to ONNX first"),
    (b"\x89HDF", "an HDF5 file, maybe a Keras model", "convert it with tf2onnx first"),
    (b"\x80", "a pickle, maybe a PyTorch checkpoint", "export the model to ONNX first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from: its thin proto and the files that its data is mapped from."""

    proto: onnx.ModelProto
    path: Path | None
    stores: tuple[Store, ...]
    locations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The files of a model and their sizes in bytes."""

    path: Path
    graph_bytes: int
    external_bytes: int
    external_files: tuple[Path, ...]
    external_tensors: int


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
            proto, regions = _thin_copy(source)
            return _read(proto, regions, None, None)
        if isinstance(source, bytes | bytearray | memoryview):
            store = Store(memoryview(source))
            return _read(*_parse(store, "the data"), None, store)
        path = Path(source)
        store = _open(path)
        return _read(*_parse(store, str(path)), path, store)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one proto with all weights inside.

    Raises:
        BadModel: It is over 2 GB, more than a protobuf holds.
    """
    written = _written(model)
    slots = external_data.make_inline(written.slots)
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
    slots = {slot.ticket: slot for slot in external_data.make_inline(written.slots)}
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
    for slot in external_data.make_inline(written.slots):
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
    target = Path(path)
    origin = _origin(model)
    _refuse_target(target, origin, overwrite)
    with _collector_paused():
        written = _written(model)
        slots, groups = _group(written.slots, target, origin, external)
        with Files() as files:
            for location, members in groups:
                data_file = external_data.place(members, target.parent / location, location)
                _write_data(data_file, files.new(data_file.path))
            _refuse_too_large(slots)
            _write_proto(written.proto, slots, files.new(target))
            files.commit()
    release(model)
    return target


def check_target(
    model: ir.Model, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Find out early that `save` could not write there. Raises BadOutput."""
    target = Path(path)
    _refuse_target(target, _origin(model), overwrite)
    if not os.access(target.parent, os.W_OK):
        raise BadOutput(
            f"the folder {target.parent} can't be written to", hint="choose another folder"
        )


def skeleton(model: ir.Model, *, keep_bytes: int = 1024) -> onnx.ModelProto:
    """The model for onnx's checker and shape inference, without the weights.

    A constant of the main graph that takes over `keep_bytes` and lies apart (4 kB and more, or
    external) becomes a graph input of its type and shape. Integers stay up to 64 kB.
    """
    with _collector_paused():
        written = _written(model)
        strip(written.proto.graph, external_data.make_inline(written.slots), keep_bytes)
    return written.proto


def model_bytes(model: ir.Model) -> int:
    """The size of the model in bytes, as one file with all weights inside."""
    written = _written(model)
    return int(written.proto.ByteSize()) + sum(slot.length for slot in written.slots)


def file_info(path: str | os.PathLike[str]) -> FileInfo:
    """What files a model consists of; data files that are missing count as empty.

    Raises:
        BadModel: The model file can't be read.
    """
    path = Path(path)
    store = _open(path)
    proto, _ = _parse(store, str(path))
    tensors = [t for t in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    names = dict.fromkeys(external_data.location_of(tensor) for tensor in tensors)
    files = tuple(path.parent / name for name in names)
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return FileInfo(path, len(store.view), sum(sizes), files, len(tensors))


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
    return write_model(model, origin.proto if origin is not None else None)


def _open(path: Path) -> Store:
    if path.is_dir():
        raise BadModel(f"{path} is a folder", hint="give the path of the .onnx file in it")
    try:
        return Store.open(path)
    except OSError as error:
        raise BadModel(
            f"{path} can't be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _parse(store: Store, what: str) -> tuple[onnx.ModelProto, dict[bytes, Region]]:
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


def _read(
    proto: onnx.ModelProto, regions: dict[bytes, Region], path: Path | None, store: Store | None
) -> ir.Model:
    files = external_data.Files(path)

    def find(tensor: onnx.TensorProto) -> Region | None:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return files.locate(tensor)
        data = tensor.raw_data
        if not wire.is_ticket(data):
            return None
        region = regions[data]
        needed = external_data.tensor_bytes(tensor)
        if region.length != needed:
            raise BadModel(
                f"tensor {tensor.name!r} needs {needed} bytes of data and has {region.length}",
                hint="the file is damaged; copy, download or export it again",
            )
        return region

    model = read_model(proto, find)
    stores = (*([store] if store is not None else []), *files.stores.values())
    model.graph.meta[MODEL] = Origin(proto, path, stores, tuple(files.stores))
    return model


def _thin_copy(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[bytes, Region]]:
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
    return external_data.tensor_bytes(tensor) >= wire.LARGE


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


def _refuse_target(path: Path, origin: Origin | None, overwrite: bool) -> None:
    hint = "choose another path for the output"
    if path.is_dir():
        raise BadOutput(f"{path} is a folder", hint="add a file name to it")
    if not path.parent.is_dir():
        raise BadOutput(f"the folder {path.parent} does not exist", hint="create it first")
    try:
        status = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise BadOutput(f"{path} is not a regular file", hint=hint)
    for store in origin.stores if origin is not None else ():
        if store.identity != (status.st_dev, status.st_ino):
            continue
        if store.path != (origin.path if origin is not None else None):
            raise BadOutput(f"{path} holds weights of the model that was read", hint=hint)
        if not overwrite:
            raise BadOutput(
                f"{path} is the model that was read",
                hint=f"{hint}, or say that the input may be overwritten",
            )


def _group(
    slots: Sequence[Slot], target: Path, origin: Origin | None, external: External
) -> tuple[list[Slot], list[tuple[str, list[Slot]]]]:
    """Which tensors go into the model file, and which into what data file beside it."""
    default = f"{target.name}.data"
    if external == "inline":
        return external_data.make_inline(slots), []
    if external == "file":
        return [], [(default, list(slots))] if slots else []
    inside = [slot for slot in slots if slot.ticket]
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        if not slot.ticket:
            groups.setdefault(external_data.location_of(slot.proto), []).append(slot)
    homes = [*groups, *(origin.locations if origin is not None else ())]
    if homes:
        # In a model with external data, what a rewrite made is kept like what it was made from.
        fresh = [slot for slot in inside if not isinstance(slot.tensor, StoredTensor)]
        inside = [slot for slot in inside if isinstance(slot.tensor, StoredTensor)]
        if fresh:
            groups.setdefault(homes[0], []).extend(fresh)
    if sum(slot.length for slot in inside) > PROTO_LIMIT - _ROOM:
        groups.setdefault(default, []).extend(inside)
        inside = []
    names = _Names(target, origin)
    return inside, [(names.free(name, default), group) for name, group in groups.items()]


class _Names:
    """Names for data files that replace no file of another model."""

    def __init__(self, target: Path, origin: Origin | None) -> None:
        self._folder = target.parent
        self._used: set[str] = set()
        stores = origin.stores if origin is not None else ()
        taken = {store.identity for store in stores}
        # Whoever replaces the input replaces its data too.
        self._taken = set() if _identity(target) in taken else taken
        self._own: set[str] = set()
        if target.is_file():
            with contextlib.suppress(BadModel):
                self._own = {file.name for file in file_info(target).external_files}

    def free(self, name: str, default: str) -> str:
        """The name itself if its file is new or ours, else one made of the default name."""
        if os.path.isabs(name) or ".." in Path(name).parts:
            name = default
        candidate = name
        path = self._folder / name
        if path.exists() and name != default and path.name not in self._own:
            candidate = default
        count = 1
        while candidate in self._used or _identity(self._folder / candidate) in self._taken:
            candidate = f"{default}{count}"
            count += 1
        self._used.add(candidate)
        return candidate


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_too_large(slots: Iterable[Slot]) -> None:
    total = sum(slot.length for slot in slots)
    if total > PROTO_LIMIT:
        raise BadModel(
            f"{total / 1e9:.1f} GB of weights do not fit into one protobuf, which holds 2 GB",
            hint='save the model with external data (external="file")',
        )


def _write_data(data_file: external_data.DataFile, file: BinaryIO) -> None:
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


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
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
