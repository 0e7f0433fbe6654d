"""Tallies on disk, found again by the content of the model and of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io
from onnxopt.atomic import Files
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize.spool import numbered
from onnxopt.quantize.tally import Tally

_APART = 4096
_FORMAT = 1
_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Store:
    """One file, for one model and one set of data; every method reads its ranges off it."""

    path: Path
    model: str
    data: str
    feeds: int

    @classmethod
    def of(cls, folder: Path, model: ir.Model, feeds: Iterable[Feed]) -> Store:
        """The file in `folder` for this model and data, which is read once.

        Raises:
            BadInput: The folder is a file, or the data is empty.
        """
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder} is a file", hint="name a folder for the cache")
        model_hash = model_digest(model)
        data_hash, count = data_digest(feeds)
        name = f"ranges-{model_hash[:_SHOWN]}-{data_hash[:_SHOWN]}.json"
        return cls(folder / name, model_hash, data_hash, count)

    def load(self) -> dict[str, Tally]:
        """What is known by value name; nothing where the file is missing, foreign or damaged."""
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if self._head() != {key: found[key] for key in self._head()}:
                return {}
            return {name: Tally.from_data(data) for name, data in found["tensors"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def save(self, tallies: Mapping[str, Tally]) -> None:
        """Write the tallies, whole or not at all. Raises BadOutput where that can't be done."""
        seen = {name: tally for name, tally in sorted(tallies.items()) if tally.feeds}
        if not seen:
            return
        found = {**self._head(), "tensors": {name: each.to_data() for name, each in seen.items()}}
        with Files() as files:
            files.new(self.path).write(json.dumps(found).encode())
            files.commit()

    def _head(self) -> dict[str, Any]:
        return {"format": _FORMAT, "model": self.model, "data": self.data, "feeds": self.feeds}


def model_digest(model: ir.Model) -> str:
    """A hash of all that decides what the model computes, in hexadecimal.

    What it says about the types of inner values is left out: inference adds to that.
    """
    proto, apart = io.split(model, apart_bytes=_APART)
    proto.graph.ClearField("value_info")
    state = hashlib.blake2b(proto.SerializeToString(deterministic=True), digest_size=32)
    for name in sorted(apart):
        state.update(name.encode() + b"\0")
        state.update(apart[name].data())
    return state.hexdigest()


def data_digest(feeds: Iterable[Feed]) -> tuple[str, int]:
    """A hash of the feeds in their order, in hexadecimal, and how many they are.

    Raises:
        BadInput: There are none.
    """
    state = hashlib.blake2b(digest_size=32)
    count = 0
    for count, feed in numbered(feeds):  # noqa: B007 - the last number is their count
        for name in sorted(feed):
            state.update(f"{len(name)} {name}".encode())
            _add(state, feed[name])
        state.update(b";")
    return state.hexdigest(), count


def _add(state: Any, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        state.update(f"list {len(value)} ".encode())
        for item in value:
            _add(state, item)
        return
    if value is None or isinstance(value, dict):
        state.update(repr(value).encode())
        return
    array = np.asarray(value)
    state.update(f"{array.dtype.name} {array.shape} ".encode())
    if array.dtype.kind in "OUS":
        state.update(repr(array.tolist()).encode())
    else:
        state.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
