"""onnxruntime sessions: any model in, plain values out, errors in one line."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxopt import io
from onnxopt.errors import RuntimeFailed
from onnxopt.runtime import weights
from onnxopt.runtime.providers import CPU, Provider, name_of, resolve

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model"
"""What a session can be opened on; a path is the way to models with external data."""

Value: TypeAlias = Any
"""A numpy array, a list (sequence), a dict (map) or None (an empty optional)."""

_FATAL = 4
_LONGEST = 300
_LARGE = 1 << 26
# Without this the environment's own logger writes warnings to stderr before any session exists.
onnxruntime.set_default_logger_severity(_FATAL)

_NUMPY_LACKS = re.compile(r"bfloat16|float8.*|float4.*|u?int[24]")
_APART = {
    "session.optimized_model_external_initializers_file_name": "weights",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
_NO_FEEDS: Mapping[str, Any] = types.MappingProxyType({})
ASLEEP: Mapping[str, str] = types.MappingProxyType({"session.intra_op.allow_spinning": "0"})
"""Configuration of a session whose threads leave the processors to others between its runs."""


@dataclass(frozen=True, slots=True)
class Signature:
    """An input or output as onnxruntime sees it.

    `type` is its spelling ("tensor(float)", "seq(map(int64,tensor(float)))"); `shape` holds sizes,
    names of symbolic dims and None, and is empty for scalars and for all that is not a tensor.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def is_tensor(self) -> bool:
        return self.type.startswith("tensor(")

    @property
    def element(self) -> str:
        """The innermost element type, as onnxruntime spells it: "float" of "seq(tensor(float))"."""
        return self.type.rpartition("(")[2].rstrip(")")


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, ready to run.

    `requested` and `providers` are full provider names: what was asked for, and what onnxruntime
    really uses. `kept` holds the memory the session reads from.
    """

    native: onnxruntime.InferenceSession
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    requested: tuple[str, ...]
    providers: tuple[str, ...]
    kept: tuple[Any, ...] = ()

    @classmethod
    def open(
        cls,
        model: ModelSource,
        *,
        optimize: bool,
        providers: Sequence[Provider] = (CPU,),
        threads: int = 0,
        config: Mapping[str, str] = _NO_FEEDS,
        profile: Path | None = None,
    ) -> Session:
        """Load a model.

        Args:
            model: A path, serialized bytes, a ModelProto or an ir.Model.
            optimize: Let onnxruntime rewrite the graph (as a user would); off for proofs.
            providers: Execution providers, first choice first; short names are fine.
            threads: Threads inside an operator; 0 lets onnxruntime choose.
            config: Session configuration entries, as onnxruntime names them.
            profile: Let onnxruntime write what each node takes into a file of that prefix.

        Raises:
            RuntimeFailed: onnxruntime can't load the model.
            BadInput: A provider is unknown or not installed.
        """
        wanted = resolve(providers)
        options = _session_options(optimize, threads, config)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        source, kept = _loadable(model, options)
        try:
            native = onnxruntime.InferenceSession(source, options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeFailed(
                f"onnxruntime can't load the model: {first_line(error)}", hint=_load_hint(error)
            ) from error
        inputs = tuple(Signature(i.name, i.type, tuple(i.shape)) for i in native.get_inputs())
        outputs = tuple(Signature(o.name, o.type, tuple(o.shape)) for o in native.get_outputs())
        asked = tuple(name_of(provider) for provider in wanted)
        return cls(native, inputs, outputs, asked, tuple(native.get_providers()), kept)

    @property
    def feedable(self) -> frozenset[str]:
        """The names `run` takes: inputs, and initializers that may be overridden."""
        overridable = self.native.get_overridable_initializers()
        return frozenset(i.name for i in (*self.inputs, *overridable))

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """Providers that were asked for and that onnxruntime silently left out."""
        return tuple(name for name in self.requested if name not in self.providers)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> list[Value]:
        """The values of the outputs, in order: arrays, lists, dicts or None.

        Element types numpy lacks (bfloat16, float8, 4 and 2 bits) go in and come out as
        `ml_dtypes` arrays.

        Raises:
            RuntimeFailed: onnxruntime refuses the feeds or fails while running.
        """
        names = [o.name for o in self.outputs] if outputs is None else list(outputs)
        kinds = {signature.name: signature for signature in (*self.inputs, *self.outputs)}
        try:
            given = {name: _to_native(value, kinds.get(name)) for name, value in feeds.items()}
            special = [name for name in names if _is_special(kinds.get(name))]
            if not special:
                return list(self.native.run(names, given))
            return self._run_special(names, special, given)
        except RuntimeFailed:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeFailed(f"onnxruntime can't run the model: {first_line(error)}") from error

    def run_shared(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> list[Value]:
        """As `run`, but numeric tensors are read-only arrays over onnxruntime's own memory.

        Nothing is copied, and what an array holds is free for the next run once it is gone.

        Raises:
            RuntimeFailed: onnxruntime refuses the feeds or fails while running.
        """
        kinds = {signature.name: signature for signature in (*self.inputs, *self.outputs)}
        names = [*feeds, *outputs]
        plain = all(isinstance(value, np.ndarray) for value in feeds.values())
        if not plain or not all(_is_numeric(kinds.get(name)) for name in names):
            return self.run(feeds, outputs)
        try:
            boxed = {name: _to_ort_value(value) for name, value in feeds.items()}
            results = self.native.run_with_ort_values(list(outputs), boxed)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeFailed(f"onnxruntime can't run the model: {first_line(error)}") from error
        dtypes = [numpy_dtype(kinds[name].element) for name in outputs]
        return [
            np.asarray(_Memory(value, dtype)) for value, dtype in zip(results, dtypes, strict=True)
        ]

    def _run_special(
        self, names: list[str], special: list[str], given: Mapping[str, Any]
    ) -> list[Value]:
        boxed = {name: _to_ort_value(value) for name, value in given.items()}
        results = self.native.run_with_ort_values(special, boxed)
        values = {name: _from_ort_value(v) for name, v in zip(special, results, strict=True)}
        plain = [name for name in names if name not in values]
        if plain:
            values |= zip(plain, self.native.run(plain, dict(given)), strict=True)
        return [values[name] for name in names]


class _Memory:
    """What numpy asks for to lay an array over a value, which lives as long as the array."""

    def __init__(self, value: onnxruntime.OrtValue, dtype: np.dtype[Any]) -> None:
        self._value = value
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(value.shape()),
            "typestr": dtype.str,
            "data": (value.data_ptr(), True),
        }


def evaluate(
    model: ModelSource, feeds: Mapping[str, Value] = _NO_FEEDS
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a small model by name, from onnxruntime's own kernels, on one thread.

    Runtime optimizations are off, so each node runs as it is written.

    Raises:
        RuntimeFailed: onnxruntime can't load or run the model.
    """
    session = Session.open(model, optimize=False, threads=1)
    return dict(zip((o.name for o in session.outputs), session.run(feeds), strict=True))


def optimized_graph(model: ModelSource, providers: Sequence[Provider] = (CPU,)) -> onnx.ModelProto:
    """The graph that onnxruntime makes of a model before it runs it, all optimizations on.

    Weights over 1 kB are left out: they have type, dims and a reference to data that is gone.

    Raises:
        RuntimeFailed: onnxruntime can't load the model, or a provider compiles it into something
            that can't be written as a graph.
        BadInput: A provider is unknown or not installed.
    """
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        path = Path(folder, "optimized.onnx")
        options = _session_options(True, 1, _APART)
        options.optimized_model_filepath = str(path)
        source, kept = _loadable(model, options)
        try:
            onnxruntime.InferenceSession(source, options, providers=resolve(providers))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeFailed(
                f"onnxruntime can't show what it makes of the model: {first_line(error)}",
                hint=_load_hint(error),
            ) from error
        del kept  # It had to outlive the session.
        return onnx.load(path, load_external_data=False)


def first_line(error: BaseException) -> str:
    """The first line of an onnxruntime error, without its code and the paths of its sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0]
    if text.endswith("the following indices") and len(lines) > 1:
        text = f"{text}: {lines[1].strip()}"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = _without_places(re.sub(r"^Load model from .*? failed:", "", text))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def numpy_dtype(element: str) -> np.dtype[Any]:
    """The numpy or ml_dtypes dtype of onnxruntime's name for an element; object for strings."""
    return np.dtype(ir.DataType[element.upper()].numpy())


def _session_options(
    optimize: bool, threads: int, config: Mapping[str, str]
) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def _loadable(
    model: ModelSource, options: onnxruntime.SessionOptions
) -> tuple[str | bytes, tuple[Any, ...]]:
    """What onnxruntime loads, and what has to live as long as the session."""
    if isinstance(model, bytes):
        return model, ()
    if isinstance(model, (str, os.PathLike)):
        return str(Path(model)), ()
    if isinstance(model, onnx.ModelProto) and model.ByteSize() < _LARGE:
        return model.SerializeToString(), ()
    loadable = weights.loadable(io.load(model))
    options.add_external_initializers(loadable.names, loadable.values)
    return loadable.graph, loadable.kept


def _without_places(text: str) -> str:
    """The text without source files and the signatures of the functions that follow them."""
    before, found, after = text.partition("/onnxruntime_src/")
    if not found:
        return text
    _, _, after = after.partition(" ")
    opening = re.match(r"[\w:<>&*,~ ]*\(", after)
    if opening is None or "::" not in opening[0]:
        return before + _without_places(after)
    depth, end = 1, opening.end()
    while depth and end < len(after):
        depth += {"(": 1, ")": -1}.get(after[end], 0)
        end += 1
    rest = re.sub(r"^( const|::<lambda\(.*?\)>| \[with .*?\])*\s*", "", after[end:])
    return before + _without_places(rest)


def _load_hint(error: BaseException) -> str:
    text = str(error)
    if "is not a registered function/op" in text:
        return "the model needs operators that plain onnxruntime does not have"
    if "supported IR version" in text or "under development" in text:
        return "the model is newer than this onnxruntime; install a newer one"
    if "Could not find an implementation" in text:
        return "no provider named here has a kernel for this operator, opset and type"
    return ""


def _is_special(signature: Signature | None) -> bool:
    return (
        signature is not None
        and signature.is_tensor
        and _NUMPY_LACKS.fullmatch(signature.element) is not None
    )


def _is_numeric(signature: Signature | None) -> bool:
    return (
        signature is not None
        and signature.is_tensor
        and signature.element != "string"
        and not _is_special(signature)
    )


def _to_native(value: Value, signature: Signature | None) -> Any:
    if signature is None or value is None or not _is_special(signature):
        return value
    tensor = ir.Tensor(np.ascontiguousarray(value, numpy_dtype(signature.element)))
    unit = np.uint16 if tensor.dtype.itemsize == 2 else np.uint8
    # Packed types fill only the first bytes; onnxruntime reads the shape and those bytes.
    buffer: np.ndarray[Any, Any] = np.zeros(np.shape(value), unit)
    packed = np.frombuffer(tensor.tobytes(), np.uint8)
    buffer.reshape(-1).view(np.uint8)[: packed.size] = packed
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(buffer, tensor.dtype.value)


def _to_ort_value(value: Any) -> onnxruntime.OrtValue:
    if isinstance(value, onnxruntime.OrtValue):
        return value
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value))


def _from_ort_value(value: onnxruntime.OrtValue) -> np.ndarray[Any, Any]:
    size = value.tensor_size_in_bytes()
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    proto = onnx.TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=raw)
    return np.asarray(ir.serde.deserialize_tensor(proto).numpy())
