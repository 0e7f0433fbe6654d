"""Tensors whose data stays where it is, mapped from a file or held in memory, until it is read."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt.errors import BadModel

DTYPES: dict[int, ir.DataType] = {kind.value: kind for kind in ir.DataType}
"""The element types by their number in TensorProto."""

_CHUNK = 1 << 24

_MAPPED_AT_ONCE = 1 << 27
"""How many bytes may be looked at before the pages are given back; they count as memory used."""


class Store:
    """Bytes that tensors are cut from: a mapped file, or memory.

    The file stays open, so that its data can be read even after the path has been replaced.
    """

    def __init__(self, data: memoryview, path: Path | None = None) -> None:
        self.view = data
        self.path = path
        self.identity: tuple[int, int] | None = None
        self.cut: set[tuple[int, int]] = set()
        self._descriptor = -1
        self._mapping: mmap.mmap | None = None
        self._seen = 0

    @classmethod
    def open(cls, path: Path) -> Store:
        """Map a file; what can't be mapped (a pipe) is read.

        Raises:
            OSError: The file can't be opened.
        """
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not status.st_size:
                with open(descriptor, "rb", closefd=False) as file:
                    store = cls(memoryview(file.read()), path)
            else:
                mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
                store = cls(memoryview(mapping), path)
                store._mapping = mapping
                store._descriptor = os.dup(descriptor)
                weakref.finalize(store, os.close, store._descriptor)
            store.identity = (status.st_dev, status.st_ino)
            return store
        finally:
            os.close(descriptor)

    def region(self, offset: int, length: int) -> Region:
        """Cut out the data of a tensor."""
        self.cut.add((offset, length))
        return Region(self, offset, length)

    def look(self, offset: int, length: int) -> memoryview:
        """A view of bytes, which are mapped as they are read."""
        if self._seen > _MAPPED_AT_ONCE:
            self.release()
        self._seen += length
        return self.view[offset : offset + length]

    def release(self) -> None:
        """Give the mapped pages back to the system; reading them again maps them again."""
        self._seen = 0
        if self._mapping is not None and hasattr(self._mapping, "madvise"):
            with contextlib.suppress(OSError, ValueError):
                self._mapping.madvise(mmap.MADV_DONTNEED)

    def copy(self, offset: int, length: int, file: BinaryIO) -> None:
        """Append bytes to a file without mapping them.

        Raises:
            OSError: The bytes can't be read or written, or the mapped file has become shorter.
        """
        if self._descriptor < 0:
            file.write(self.view[offset : offset + length])
            return
        done = 0
        # Small pieces go through the buffer, which gathers them.
        if length >= 1 << 16 and hasattr(os, "copy_file_range"):
            file.flush()
            done = self._copy_in_kernel(offset, length, file.fileno())
            file.seek(0, os.SEEK_END)
        while done < length:
            piece = self._read(offset + done, min(_CHUNK, length - done))
            if not piece:
                raise OSError(f"{self.path} has become shorter while it was read")
            file.write(piece)
            done += len(piece)

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, length, offset)
        return self.view[offset : offset + length]

    def _copy_in_kernel(self, offset: int, length: int, target: int) -> int:
        done = 0
        # Between two file systems, and on some of them, the kernel refuses.
        with contextlib.suppress(OSError):
            while done < length:
                count = os.copy_file_range(
                    self._descriptor, target, length - done, offset_src=offset + done
                )
                if not count:
                    break
                done += count
        return done


@dataclass(frozen=True, slots=True)
class Region:
    """A run of bytes in a store; `Store.cut` knows all of them."""

    store: Store
    offset: int
    length: int

    @property
    def view(self) -> memoryview:
        """The bytes, not copied."""
        return self.store.look(self.offset, self.length)


class StoredTensor(ir.Tensor[Any]):
    """A tensor as it came in a model: its proto, and its data where that lies apart.

    `header` is never changed, whatever the tensor is renamed to; it lacks the data that `region`
    holds. Every call of `numpy()` makes a new array, which is a view where alignment allows.
    """

    __slots__ = ("header", "region")

    def __init__(
        self,
        header: onnx.TensorProto,
        region: Region | None,
        dtype: ir.DataType,
        shape: ir.Shape,
    ) -> None:
        entries = header.metadata_props
        super().__init__(
            _Data(header, region, dtype, shape),
            dtype,
            shape=shape,
            name=header.name,
            doc_string=header.doc_string if header.HasField("doc_string") else None,
            metadata_props={entry.key: entry.value for entry in entries} if entries else None,
        )
        self.header = header
        self.region = region

    def tobytes(self) -> bytes:
        """The data as `raw_data` holds it: little endian, small types packed."""
        if self.region is not None:
            return bytes(self.region.view)
        return ir.TensorProtoTensor(self.header).tobytes()

    def tofile(self, file: Any) -> None:
        """Append the data to a binary file."""
        if self.region is not None:
            self.region.store.copy(self.region.offset, self.region.length, file)
        else:
            file.write(self.tobytes())


class SparseTensor(ir.Tensor[Any]):
    """A sparse initializer; to a reader it is the dense tensor that it stands for."""

    __slots__ = ("header",)

    def __init__(self, header: onnx.SparseTensorProto) -> None:
        dtype = DTYPES[header.values.data_type]
        shape = ir.Shape(header.dims, frozen=True)
        name = header.values.name
        super().__init__(_SparseData(header, dtype, shape), dtype, shape=shape, name=name)
        self.header = header


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """How many bytes the data of a tensor takes, small types packed.

    Raises:
        BadModel: The element type is unknown or has no fixed size, or a dim is negative.
    """
    count = 1
    for dim in tensor.dims:
        count *= dim
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None or dtype.name in ("STRING", "UNDEFINED") or count < 0:
        raise BadModel(
            f"tensor {tensor.name!r} of type {tensor.data_type} and dims {list(tensor.dims)} "
            "can't be external",
            hint="export the model again",
        )
    return (count * dtype.bitwidth + 7) // 8


class _Data:
    """What `ir.Tensor` calls its value: anything that turns into an array when asked."""

    __slots__ = ("_dtype", "_header", "_region", "_shape")

    def __init__(
        self,
        header: onnx.TensorProto,
        region: Region | None,
        dtype: ir.DataType,
        shape: ir.Shape,
    ) -> None:
        self._header = header
        self._region = region
        self._dtype = dtype
        self._shape = shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _as_asked(self._array(), dtype, copy)

    def _array(self) -> np.ndarray:
        if self._region is None:
            return ir.TensorProtoTensor(self._header).numpy()
        view = self._region.view
        if not view:
            return np.empty(self._shape.numpy(), self._dtype.numpy())
        if self._dtype.bitwidth < 8:
            packed = np.frombuffer(view, np.uint8)
            return ir.PackedTensor(packed, self._dtype, shape=self._shape).numpy()
        little = self._dtype.numpy().newbyteorder("<")
        array = np.frombuffer(view, little).reshape(self._shape.numpy())
        # Kernels take aligned data for granted.
        return array if array.flags.aligned and sys.byteorder == "little" else array.copy()

    def __repr__(self) -> str:
        return "in the file" if self._region is not None else "in the proto"


class _SparseData:
    __slots__ = ("_dtype", "_header", "_shape")

    def __init__(self, header: onnx.SparseTensorProto, dtype: ir.DataType, shape: ir.Shape) -> None:
        self._header = header
        self._dtype = dtype
        self._shape = shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        shape = self._shape.numpy()
        values = ir.TensorProtoTensor(self._header.values).numpy()
        indices = ir.TensorProtoTensor(self._header.indices).numpy()
        dense = np.zeros(shape, self._dtype.numpy())
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return _as_asked(dense, dtype, copy)

    def __repr__(self) -> str:
        return "sparse"


def _as_asked(array: np.ndarray, dtype: Any, copy: bool | None) -> np.ndarray:
    if dtype is not None and array.dtype != dtype:
        return array.astype(dtype)
    return array.copy() if copy else array
