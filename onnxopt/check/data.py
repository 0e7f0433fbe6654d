"""Feeds from the user's data: files, folders, functions, arrays, streams."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.check import images
from onnxopt.check.arrays import let_go, read_npy, read_npz
from onnxopt.check.inputs import Feed, InputSpec, checked_feed, inputs_of, listing
from onnxopt.errors import BadInput

Data: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Iterable[Feed]"

_SLASH = "__SL__"
_SUFFIXES = (".npy", ".npz")


def read_data(
    spec: Data, model: ir.Model, batch: int = 1, *, preprocess: str | None = None
) -> Iterable[Feed]:
    """The feeds in `spec`, read as they are asked for; can be iterated again unless `spec` can't.

    `spec` is one of

    * an .npz file: its keys are input names (`__SL__` stands for a `/`), its arrays hold samples;
    * an .npy file with the samples of a model's single input;
    * a folder of such files, taken in the order of their names (a run does not reach across files);
    * a folder of pictures, for a model whose single input takes them, with `preprocess`: a preset
      with options (see images.Preprocess), or `module:function` from uint8 pixels [height, width,
      3] to an input without its batch dim;
    * `module:function`: a function without arguments that gives feeds (dicts), importable from
      here or from the working directory;
    * a mapping of input names to arrays of samples;
    * any iterable of feeds, each used as it is.

    Samples lie along the first axis of an array and `batch` of them make a run. Where the model
    fixes the first dim of an input, a run takes that many. An array with one axis more than the
    input holds a whole input a row (so a vector feeds a scalar); one with an axis less is a single
    sample. A 0-d array, and an array that fills just one run of an input with a fixed first dim, is
    used in every run.

    Raises:
        BadInput: Nothing of that name or kind, pickled objects, `batch` below 1, pictures without
            `preprocess` or the other way round; while iterating, a name, type, shape or number of
            samples that does not fit the model.
        MissingExtra: Pictures can't be read, as Pillow is not installed.
    """
    if batch < 1:
        raise BadInput(f"the batch can't be {batch}", hint="give at least 1")
    inputs = inputs_of(model)
    pictures = _pictures(spec)
    if pictures:
        return _images(pictures, inputs, batch, preprocess)
    if preprocess is not None:
        raise BadInput(
            "only pictures are preprocessed, and the data is no folder of them",
            hint="leave --preprocess out, or name a folder of .jpg or .png files with --data",
        )
    if isinstance(spec, Mapping):
        return _Samples(lambda: dict(spec), inputs, batch, "the data")
    if isinstance(spec, (str, os.PathLike)):
        return _read_path(spec, inputs, batch)
    if isinstance(spec, Iterable):
        feeds = _Feeds(spec, inputs)
        return iter(feeds) if isinstance(spec, Iterator) else feeds
    raise BadInput(
        f"a {type(spec).__name__} is no data",
        hint="give a path, module:function, a dict of arrays or an iterable of feeds",
    )


@dataclass(frozen=True, slots=True)
class _Feeds(Iterable[Feed]):
    """Feeds of the user's own making, each known to fit."""

    feeds: Iterable[Feed]
    inputs: tuple[InputSpec, ...]

    def __iter__(self) -> Iterator[Feed]:
        for number, feed in enumerate(self.feeds, 1):
            if not isinstance(feed, Mapping):
                raise BadInput(
                    f"feed {number} is a {type(feed).__name__}",
                    hint="each feed is a dict from input names to arrays",
                )
            yield checked_feed(feed, self.inputs, f"feed {number}")


@dataclass(frozen=True, slots=True)
class _Samples(Iterable[Feed]):
    """Arrays of samples, cut into runs."""

    read: Callable[[], Mapping[str, Any]]
    inputs: tuple[InputSpec, ...]
    batch: int
    where: str

    def __iter__(self) -> Iterator[Feed]:
        known = {spec.name: spec for spec in self.inputs}
        columns: list[_Column] = []
        for key, array in self.read().items():
            name = key if key in known else key.replace(_SLASH, "/")
            if name not in known:
                raise BadInput(
                    f"{self.where}: the model has no input {name!r}",
                    hint=f"its inputs: {listing(self.inputs)}",
                )
            columns.append(_Column.of(known[name], array, self.batch, self.where))
        runs = _common_runs(columns, self.where)
        for run in range(runs):
            feed = {column.spec.name: column.take(run) for column in columns}
            yield checked_feed(feed, self.inputs, self.where)
            for column in columns:
                let_go(column.array)


@dataclass(frozen=True, slots=True)
class _Column:
    """The samples of one input: `samples` in all, `block` of them a run.

    A block of 0 means a whole input a row; `repeated` columns give their only block to every run.
    """

    spec: InputSpec
    array: Any
    samples: int
    block: int
    repeated: bool

    @classmethod
    def of(cls, spec: InputSpec, values: Any, batch: int, where: str) -> _Column:
        if "sequence" in spec.kind or spec.dtype is None:
            return cls(spec, values, 1, 1, True)
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
        if array.dtype.kind in "US":
            array = array.astype(object)
        shape = spec.shape
        if array.ndim == 0 or shape is None:
            return cls(spec, array, 1, 1, True) if array.ndim == 0 else _rows(spec, array, batch)
        if array.ndim == len(shape) + 1:
            return cls._stacked(spec, array, batch, where)
        if array.ndim == len(shape) - 1 and (shape[0] == 1 or not isinstance(shape[0], int)):
            array = array[None]
        if array.ndim != len(shape):
            raise BadInput(
                f"{where}: the array for {spec.name!r} has the shape {list(array.shape)}",
                hint=f"the input is {spec.expected}; samples lie along the first axis",
            )
        if isinstance(shape[0], int):
            return cls._fixed(spec, array, shape[0], where)
        return _rows(spec, array, batch)

    @classmethod
    def _stacked(cls, spec: InputSpec, array: Any, batch: int, where: str) -> _Column:
        if batch != 1 and spec.shape:
            raise BadInput(
                f"{where}: each row for {spec.name!r} is a whole input, which {batch} can't share",
                hint="use a batch of 1, or put the samples along the input's own first axis",
            )
        return cls(spec, array, len(array), 0, False)

    @classmethod
    def _fixed(cls, spec: InputSpec, array: Any, block: int, where: str) -> _Column:
        if block == 0 or len(array) % block:
            raise BadInput(
                f"{where}: {len(array)} samples for {spec.name!r} are no whole runs of {block}",
                hint=f"the input is {spec.expected}",
            )
        return cls(spec, array, len(array), block, len(array) == block)

    @property
    def runs(self) -> int:
        return self.samples if not self.block else -(-self.samples // self.block)

    def take(self, run: int) -> Any:
        if self.repeated:
            return self.array
        if not self.block:
            return np.asarray(self.array[run])
        return np.asarray(self.array[run * self.block : (run + 1) * self.block])


def _rows(spec: InputSpec, array: Any, batch: int) -> _Column:
    return _Column(spec, array, len(array), batch, False)


def _common_runs(columns: list[_Column], where: str) -> int:
    varying = [column for column in columns if not column.repeated]
    if not varying:
        return 1 if columns else 0
    runs = {column.runs for column in varying}
    if len(runs) > 1:
        counts = ", ".join(f"{c.spec.name}: {c.samples}" for c in varying)
        raise BadInput(
            f"{where}: the inputs have different numbers of samples ({counts})",
            hint="give each input as many samples as the others",
        )
    return runs.pop()


def _read_path(
    spec: str | os.PathLike[str], inputs: tuple[InputSpec, ...], batch: int
) -> Iterable[Feed]:
    path = Path(spec)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not files:
            raise BadInput(
                f"no .npz or .npy file and no picture lies in {path}",
                hint="name a folder of samples",
            )
        return _Chain(tuple(_file_samples(file, inputs, batch) for file in files))
    if path.is_file():
        return _file_samples(path, inputs, batch)
    if ":" in str(spec) and path.suffix not in _SUFFIXES:
        return _Feeds(_Calls(function_of(str(spec)), str(spec)), inputs)
    raise BadInput(f"there is no data at {path}", hint="give a file, a folder or module:function")


def _pictures(spec: Data) -> tuple[Path, ...]:
    """The pictures of a folder that has no arrays."""
    if not isinstance(spec, (str, os.PathLike)) or not Path(spec).is_dir():
        return ()
    if any(file.suffix in _SUFFIXES for file in Path(spec).iterdir()):
        return ()
    return images.images_in(Path(spec))


def _images(
    files: tuple[Path, ...], inputs: tuple[InputSpec, ...], batch: int, preprocess: str | None
) -> images.Images:
    if preprocess is None:
        raise BadInput(
            f"{files[0].parent} holds pictures, and nothing says how the model wants them",
            hint=f"say how with --preprocess: {images.HINT}",
        )
    images.require_pillow()
    images.image_input(inputs)
    own = ":" in preprocess
    how = function_of(preprocess) if own else images.Preprocess.parse(preprocess)
    return images.Images(files, inputs, how, batch)


def _file_samples(path: Path, inputs: tuple[InputSpec, ...], batch: int) -> _Samples:
    if path.suffix not in _SUFFIXES:
        raise BadInput(f"{path} is neither .npz nor .npy", hint="save the samples with numpy.savez")
    if path.suffix == ".npz":
        return _Samples(lambda: read_npz(path), inputs, batch, str(path))
    required = [spec for spec in inputs if spec.required]
    if len(required) != 1:
        raise BadInput(
            f"{path} holds one array, and the model has {len(required)} inputs",
            hint=f"save an .npz with a key for each: {listing(inputs)}",
        )
    name = required[0].name
    return _Samples(lambda: {name: read_npy(path)}, inputs, batch, str(path))


@dataclass(frozen=True, slots=True)
class _Chain(Iterable[Feed]):
    parts: tuple[Iterable[Feed], ...]

    def __iter__(self) -> Iterator[Feed]:
        for part in self.parts:
            yield from part


@dataclass(frozen=True, slots=True)
class _Calls(Iterable[Feed]):
    """What a function gives; it is called anew for each pass."""

    function: Callable[[], Any]
    where: str

    def __iter__(self) -> Iterator[Feed]:
        result = self.function()
        if isinstance(result, Mapping) or not isinstance(result, Iterable):
            raise BadInput(
                f"{self.where} gave a {type(result).__name__}",
                hint="it must give feeds one after the other: a list of dicts, or yield them",
            )
        yield from result


def function_of(spec: str) -> Callable[..., Any]:
    """The function that `module:function` names, looked for in the working directory too.

    Raises BadInput where there is none.
    """
    module_name, _, name = spec.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(
            f"the module {module_name!r} can't be imported: {error}",
            hint="run from the folder it lies in, or install it",
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(
            f"the module {module_name!r} has no function {name!r}", hint="write module:function"
        )
    return function  # type: ignore[no-any-return]
