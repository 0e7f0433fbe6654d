"""Where the data of tensors outside the model file is read from, and where it is written to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnxopt import wire
from onnxopt.errors import BadModel
from onnxopt.parse import open_file, parse, tensors_of
from onnxopt.tensors import Region, Store, tensor_bytes
from onnxopt.writer import Slot

_PAGE = 4096
_LARGEST_PAGE = 1 << 16
_PAGE_ALIGNED = 1 << 20
_LINE = 64


class DataFiles:
    """The external data files of a model that is being read."""

    def __init__(self, model: Path | None) -> None:
        self.stores: dict[str, Store] = {}
        self._model = model

    def locate(self, tensor: onnx.TensorProto) -> Region:
        """Where the data of a tensor is.

        Raises:
            BadModel: The file is missing, too short, or not in the folder of the model, or the
                length does not fit the tensor.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        store = self._store(entries.get("location", ""), tensor.name)
        size = len(store.view)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or 0)
        except ValueError:
            offset = length = -1
        needed = tensor_bytes(tensor)
        if offset < 0 or length < 0 or (length and length != needed):
            raise BadModel(
                f"tensor {tensor.name!r} of {needed} bytes can't lie at offset "
                f"{entries.get('offset')!r} with length {entries.get('length')!r} in {store.path}",
                hint="the model and its data file do not belong together; export both again",
            )
        if offset + needed > size:
            raise BadModel(
                f"{store.path} is too short: it has {size} bytes, and tensor {tensor.name!r} "
                f"ends at {offset + needed}",
                hint="the file was not copied or downloaded to its end; fetch it again",
            )
        return store.region(offset, needed)

    def _store(self, location: str, name: str) -> Store:
        if location in self.stores:
            return self.stores[location]
        if self._model is None:
            raise BadModel(
                f"the data of tensor {name!r} is in {location!r}, and a model without a path has "
                "no folder to look in",
                hint="give the path of the model, or load its external data into the proto",
            )
        path = self._inside(location, name)
        try:
            store = Store.open(path)
        except OSError as error:
            raise BadModel(
                f"the data file {path} can't be read: {error.strerror}",
                hint="a model with external data needs its data files beside it; copy them too",
            ) from error
        self.stores[location] = store
        return store

    def _inside(self, location: str, name: str) -> Path:
        """The path of a data file, which must not lead out of the folder of the model."""
        assert self._model is not None
        folder = self._model.parent
        path = folder / location
        real = os.path.realpath(path)
        # A model that is itself a link may have its data beside what it points to.
        roots = {os.path.realpath(folder), os.path.dirname(os.path.realpath(self._model))}
        inside = any(os.path.commonpath([real, root]) == root for root in roots)
        if not location or os.path.isabs(location) or ".." in Path(location).parts or not inside:
            raise BadModel(
                f"the data of tensor {name!r} is in {location!r}, outside of {folder}",
                hint="data files must lie in the folder of the model; move them there and write "
                "their paths relative to it",
            )
        return path


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from: its thin proto and the files that its data is mapped from."""

    proto: onnx.ModelProto
    path: Path | None
    stores: tuple[Store, ...]
    locations: tuple[str, ...]

    def __deepcopy__(self, memo: dict[int, object]) -> Origin:
        # Files can't be copied, and nothing in here ever changes.
        return self


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The files of a model and their sizes in bytes."""

    path: Path
    graph_bytes: int
    external_bytes: int
    external_files: tuple[Path, ...]
    external_tensors: int


def file_info(path: str | os.PathLike[str]) -> FileInfo:
    """What files a model consists of; data files that are missing count as empty.

    Raises:
        BadModel: The model file can't be read.
    """
    path = Path(path)
    store = open_file(path)
    proto, _ = parse(store, str(path))
    tensors = [t for t in tensors_of(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    names = dict.fromkeys(location_of(tensor) for tensor in tensors)
    files = tuple(path.parent / name for name in names)
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return FileInfo(path, len(store.view), sum(sizes), files, len(tensors))


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of a data file: what belongs at an offset."""

    offset: int
    slot: Slot


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file to write: a copy of `whole` where nothing in it changed, else `pieces`."""

    path: Path
    whole: Store | None = None
    pieces: list[Placed] = field(default_factory=list)


def make_inline(slots: Iterable[Slot]) -> list[Slot]:
    """The slots, with every external tensor moved into the proto."""
    inline: list[Slot] = []
    for slot in slots:
        if not slot.ticket:
            slot.proto.ClearField("external_data")
            slot.proto.ClearField("data_location")
            slot.proto.raw_data = wire.new_ticket()
            slot = Slot(slot.proto, slot.tensor, slot.proto.raw_data)
        inline.append(slot)
    return inline


def location_of(tensor: onnx.TensorProto) -> str:
    """The data file that a tensor names, relative to the folder of its model."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def place(slots: Sequence[Slot], path: Path, location: str) -> DataFile:
    """Lay tensors out in one data file and write the references to it.

    Tensors that came from a data file keep its order and alignment, new ones follow. A file of
    which nothing changed is copied as it is, with all that lies between and behind the tensors.
    """
    kept = [slot for slot in slots if not slot.ticket]
    whole = _unchanged(kept) if len(kept) == len(slots) else None
    if whole is not None:
        for slot in slots:
            _refer(slot.proto, location, None)
        return DataFile(path, whole)
    kept.sort(key=_offset)
    steps = _alignments(kept)
    fresh = [slot for slot in slots if slot.ticket]
    steps += [_PAGE if slot.length >= _PAGE_ALIGNED else _LINE for slot in fresh]
    pieces: list[Placed] = []
    shared: dict[Region, int] = {}
    end = 0
    for slot, step in zip((*kept, *fresh), steps, strict=True):
        region = getattr(slot.tensor, "region", None)
        offset = shared.get(region) if region is not None else None
        if offset is None:
            offset = -(-end // step) * step
            end = offset + slot.length
            pieces.append(Placed(offset, slot))
            if region is not None:
                shared[region] = offset
        _refer(slot.proto, location, (offset, slot.length))
    return DataFile(path, pieces=pieces)


def _unchanged(slots: Sequence[Slot]) -> Store | None:
    """The file that the slots came from, if they are all that was in it and where they were."""
    regions = [getattr(slot.tensor, "region", None) for slot in slots]
    store = regions[0].store if regions and regions[0] is not None else None
    if store is None or store.path is None:
        return None
    same = all(
        region is not None and region.store is store and region.offset == _offset(slot)
        for slot, region in zip(slots, regions, strict=True)
    )
    return store if same and {(r.offset, r.length) for r in regions if r} == store.cut else None


def _offset(slot: Slot) -> int:
    entries = slot.proto.external_data
    return int(next((entry.value for entry in entries if entry.key == "offset"), "") or 0)


def _is_dense(slots: Sequence[Slot]) -> bool:
    """Whether the tensors followed each other without a gap in the file they came from."""
    store = getattr(slots[0].tensor, "region", None) if slots else None
    cut = sorted(store.store.cut) if store is not None else []
    ends = [0, *(offset + length for offset, length in cut)]
    return all(offset <= end for (offset, _), end in zip(cut, ends, strict=False))


def _alignments(slots: Sequence[Slot]) -> list[int]:
    """To what power of two the file that the slots came from aligned each of them.

    Writers that align often do so for large tensors only, so these are looked at on their own.
    """
    if _is_dense(slots):
        return [1] * len(slots)
    steps = {True: _LARGEST_PAGE, False: _LARGEST_PAGE}
    for slot in slots:
        offset = _offset(slot)
        large = slot.length >= _PAGE_ALIGNED
        steps[large] = min(steps[large], offset & -offset or _LARGEST_PAGE)
    return [steps[slot.length >= _PAGE_ALIGNED] for slot in slots]


def _refer(tensor: onnx.TensorProto, location: str, place: tuple[int, int] | None) -> None:
    """Make a tensor refer to a data file; without a place only the name of the file changes."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    values = {"location": location}
    if place is not None:
        values |= {"offset": str(place[0]), "length": str(place[1])}
    entries = [(entry.key, entry.value) for entry in tensor.external_data]
    wanted = {**dict(entries), **values}
    if place is not None:
        # It was the digest of the whole file, which is another one now.
        wanted.pop("checksum", None)
    if entries != list(wanted.items()):
        tensor.ClearField("external_data")
        for key, value in wanted.items():
            tensor.external_data.add(key=key, value=value)
