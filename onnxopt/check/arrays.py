"""Arrays from .npy and .npz files, left on disk until they are read; pickles are refused."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxopt.errors import BadInput

Array: TypeAlias = "np.ndarray[Any, Any]"

_ERRORS = (ValueError, OSError, EOFError, KeyError, struct.error, zipfile.BadZipFile, zlib.error)
_LOCAL_HEADER = struct.Struct("<26xHH")


def read_npy(path: Path) -> Array:
    """The array of an .npy file, mapped.

    Raises:
        BadInput: It can't be read, or holds pickled objects.
    """
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def read_npz(path: Path) -> Mapping[str, Array]:
    """The arrays of an .npz file by key: mapped where they are stored as they are, else loaded.

    Raises:
        BadInput: It can't be read, or holds pickled objects.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as archive:
            directory = archive.zip.infolist() if archive.zip else []
            members = {info.filename: info for info in directory}
            return {
                key: _mapped(path, members.get(f"{key}.npy"), archive, key) for key in archive.files
            }
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def let_go(array: Any) -> None:
    """Take what was read of a mapped array out of the memory of the process; it can be read again.

    Else it grows by all that was read of the file, until the array is gone. Only what was mapped to
    be read is: changes to a copy-on-write array lie nowhere else.
    """
    base = getattr(array, "base", None)
    if getattr(array, "mode", "") != "r" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path, info: zipfile.ZipInfo | None, archive: Any, key: str) -> Array:
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        return np.asarray(archive[key])
    with path.open("rb") as file:
        file.seek(info.header_offset)
        file.seek(sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))), 1)
        major, _ = np.lib.format.read_magic(file)
        header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        if major not in header:
            return np.asarray(archive[key])
        shape, column_major, dtype = header[major](file)
        start = file.tell()
    if dtype.hasobject or not np.prod(shape):
        return np.asarray(archive[key])
    if start + dtype.itemsize * int(np.prod(shape)) > path.stat().st_size:
        raise ValueError(f"the array {key!r} is cut short")
    order = "F" if column_major else "C"
    return np.memmap(path, dtype, "r", start, shape, order)  # type: ignore[call-overload, no-any-return]


def _unreadable(path: Path, error: Exception) -> BadInput:
    if any(word in str(error) for word in ("pickle", "Object arrays", "Python objects")):
        return BadInput(
            f"{path} holds no plain arrays; pickled objects could run code and are not read",
            hint="save numbers, and strings as a numpy unicode array (dtype U)",
        )
    return BadInput(f"{path} can't be read: {error}", hint="save it with numpy.save or savez")
