"""Where a model may be written, and which of its tensors go into which file there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxopt.errors import BadModel, BadOutput
from onnxopt.external import Origin, file_info, location_of, make_inline
from onnxopt.tensors import StoredTensor
from onnxopt.writer import Slot

External = Literal["keep", "inline", "file"]
Identity = tuple[int, int]

PROTO_LIMIT = (1 << 31) - 1
"""The largest protobuf message in bytes."""

_ROOM = 1 << 24
"""Bytes kept free below that limit, for the graph to grow."""


def check(path: Path, origin: Origin | None, overwrite: bool) -> None:
    """Refuse a path that can't be written or that would destroy what was read.

    Raises:
        BadOutput: It is a folder, a device, the input, or in a folder that is not there or closed.
    """
    hint = "choose another path for the output"
    if path.is_dir():
        raise BadOutput(f"{path} is a folder", hint="add a file name to it")
    if not path.parent.is_dir():
        raise BadOutput(f"the folder {path.parent} does not exist", hint="create it first")
    if not os.access(path.parent, os.W_OK):
        raise BadOutput(f"the folder {path.parent} can't be written to", hint=hint)
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


def group(
    slots: Sequence[Slot], target: Path, origin: Origin | None, external: External
) -> tuple[list[Slot], list[tuple[str, list[Slot]]]]:
    """Which tensors go into the model file, and which into what data file beside it."""
    default = f"{target.name}.data"
    if external == "inline":
        return make_inline(slots), []
    names = _Names(target, origin, {_identity(path) for path in map(_foreign_file, slots) if path})
    if external == "file":
        return [], [(names.free(default, default), list(slots))] if slots else []
    inside = [slot for slot in slots if slot.ticket]
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        if not slot.ticket:
            groups.setdefault(location_of(slot.proto), []).append(slot)
    homes = [*groups, *(origin.locations if origin is not None else ())]
    if homes:
        # In a model with external data, what a rewrite made is kept like what it was made from.
        fresh = [slot for slot in inside if not _was_inside(slot, origin)]
        inside = [slot for slot in inside if _was_inside(slot, origin)]
        if fresh:
            groups.setdefault(homes[0], []).extend(fresh)
    if sum(slot.length for slot in inside) > PROTO_LIMIT - _ROOM:
        groups.setdefault(default, []).extend(inside)
        inside = []
    return inside, [(names.free(name, default), group) for name, group in groups.items()]


def _was_inside(slot: Slot, origin: Origin | None) -> bool:
    """Whether a tensor lay in the model file that was read."""
    if origin is None or not isinstance(slot.tensor, StoredTensor) or slot.tensor.region is None:
        return False
    return any(slot.tensor.region.store is store for store in origin.stores)


class _Names:
    """Names for data files that replace no file of another model."""

    def __init__(self, target: Path, origin: Origin | None, in_use: set[Identity | None]) -> None:
        self._folder = target.parent
        self._used = {os.path.normpath(target.name)}
        stores = origin.stores if origin is not None else ()
        taken = {store.identity for store in stores if store.identity is not None}
        # Whoever replaces the input replaces its data too.
        self._taken = in_use | (set() if _identity(target) in taken else taken)
        self._own: set[str] = set()
        if target.is_file():
            with contextlib.suppress(BadModel):
                self._own = set(map(os.path.normpath, file_info(target).external_files))

    def free(self, name: str, default: str) -> str:
        """The name itself if its file is new or ours, else one made of the default name."""
        if os.path.isabs(name) or ".." in Path(name).parts:
            name = default
        candidate = name
        path = self._folder / name
        if path.exists() and name != default and os.path.normpath(path) not in self._own:
            candidate = default
        count = 1
        while not self._is_free(candidate):
            candidate = f"{default}{count}"
            count += 1
        self._used.add(os.path.normpath(candidate))
        return candidate

    def _is_free(self, name: str) -> bool:
        identity = _identity(self._folder / name)
        return os.path.normpath(name) not in self._used and (
            identity is None or identity not in self._taken
        )


def _foreign_file(slot: Slot) -> str:
    """The file that a tensor of onnx_ir reads when it is asked to, or nothing."""
    tensor = slot.tensor
    return str(tensor.path) if isinstance(tensor, ir.ExternalTensor) else ""


def _identity(path: str | Path) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
