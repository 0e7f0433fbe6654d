"""The ONNX backend suite as a corpus: models that onnxruntime can run, with data to run them on.

`cases()` lists every model of onnx.backend.test (node, simple, pytorch-*, light), `run()` says what
onnxruntime makes of one, and `frozen()` turns inputs into constants, so that there is something to
fold. Nothing is downloaded or written.
"""

from __future__ import annotations

import ctypes
import functools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.numpy_helper
import onnxruntime

DATA = Path(onnx.backend.test.__file__).parent / "data"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")

# Their models come out different on every run, with onnxruntime as with everything else.
RANDOM_OPS = frozenset({"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"})

# Element types that numpy lacks, as onnxruntime spells them.
FOREIGN = re.compile(r"^tensor\((bfloat16|float[468]e|u?int[24]\))")

Feeds = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One model. `path` is its file, or None where the onnx package makes it in memory."""

    name: str
    path: Path | None
    proto: onnx.ModelProto | None = None
    values: Sequence[Any] | None = None

    def model(self) -> onnx.ModelProto:
        """A fresh copy of the model."""
        if self.path is not None:
            return onnx.load(self.path)
        copy = onnx.ModelProto()
        assert self.proto is not None
        copy.CopyFrom(self.proto)
        return copy

    def feeds(self) -> Feeds:
        """Input name to array, list of arrays (sequence) or None (absent optional)."""
        model = self.model()
        held = {tensor.name for tensor in model.graph.initializer}
        inputs = [info for info in model.graph.input if info.name not in held]
        if self.values is not None:
            values = [_plain(value) for value in self.values]
        elif self.path is not None and self.path.name == "model.onnx":
            values = [_read(file, info) for file, info in _input_files(self.path.parent, inputs)]
        else:
            values = [_ramp(info) for info in inputs]
        return {info.name: value for info, value in zip(inputs, values, strict=True)}

    def deterministic(self) -> bool:
        """False where the model draws random numbers."""
        model = self.model()
        nodes = [*model.graph.node, *(node for body in model.functions for node in body.node)]
        return not any(node.op_type in RANDOM_OPS for node in nodes)


@functools.cache
def cases() -> tuple[Case, ...]:
    """Every model of the suite, sorted by name; not all of them can run in onnxruntime."""
    found = [*_node_cases(), *_folder_cases(), *_light_cases()]
    return tuple(sorted(found, key=lambda case: case.name))


def frozen(model: onnx.ModelProto, feeds: Feeds, keep_first: bool) -> tuple[onnx.ModelProto, Feeds]:
    """The model with its inputs made constants, and the feeds that are left.

    With `keep_first` the first input stays an input. Inputs that no initializer can hold
    (sequences, optionals) stay too, and below IR 4 a constant stays listed as an input, where it
    can't be overridden.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    left: Feeds = {}
    for position, info in enumerate(model.graph.input):
        value = feeds.get(info.name)
        tensor = info.type.WhichOneof("value") == "tensor_type" and isinstance(value, np.ndarray)
        if info.name not in feeds:
            continue
        if not tensor or (keep_first and position == 0):
            left[info.name] = value
            continue
        result.graph.initializer.append(_tensor(value, info))
        if model.ir_version >= 4:
            result.graph.input.remove(info)
    return result, left


def run(model: onnx.ModelProto | bytes | str, feeds: Mapping[str, Any]) -> list[Any] | None:
    """onnxruntime's outputs with optimizations off on one thread; None where it refuses."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    try:
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        outputs = session.get_outputs()
        if any(map(_foreign, feeds.values())) or any(FOREIGN.search(out.type) for out in outputs):
            wrapped = {name: _ort_value(value) for name, value in feeds.items()}
            names = [output.name for output in outputs]
            return [_array(value) for value in session.run_with_ort_values(names, wrapped)]
        return list(session.run(None, dict(feeds)))
    except Exception:  # pybind raises a class of its own for every status
        return None


def _node_cases() -> Iterator[Case]:
    from onnx.backend.test.case.model import collect_testcases as model_cases
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [*collect_testcases(None), *model_cases()]
    on_disk = {folder.name for folder in (DATA / "simple").iterdir()}
    for case in made:
        if case.model is not None and case.name not in on_disk:
            yield Case(case.name, None, case.model, case.data_sets[0][0])


def _folder_cases() -> Iterator[Case]:
    for folder in FOLDERS:
        for path in sorted((DATA / folder).glob("*/model.onnx")):
            yield Case(f"{folder}/{path.parent.name}", path)


def _light_cases() -> Iterator[Case]:
    for path in sorted((DATA / "light").glob("*.onnx")):
        yield Case(f"light/{path.stem}", path)


def _input_files(
    folder: Path, inputs: Sequence[onnx.ValueInfoProto]
) -> Iterator[tuple[Path, onnx.ValueInfoProto]]:
    for position, info in enumerate(inputs):
        yield folder / "test_data_set_0" / f"input_{position}.pb", info


def _read(path: Path, info: onnx.ValueInfoProto) -> Any:
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        sequence = onnx.SequenceProto.FromString(path.read_bytes())
        return onnx.numpy_helper.to_list(sequence)
    if kind == "optional_type":
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return _plain(onnx.TensorProto.FromString(path.read_bytes()))


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None else np.asarray(value)


def _ramp(info: onnx.ValueInfoProto) -> np.ndarray:
    shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)


def _tensor(value: np.ndarray, info: onnx.ValueInfoProto) -> onnx.TensorProto:
    tensor = onnx.numpy_helper.from_array(value, info.name)
    assert tensor.data_type == info.type.tensor_type.elem_type, info.name
    return tensor


def _foreign(value: Any) -> bool:
    """Whether numpy knows the element type only through ml_dtypes."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "V" and not value.dtype.names


def _ort_value(value: np.ndarray) -> onnxruntime.OrtValue:
    if not _foreign(value):
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    bits = value.view(np.uint16 if value.dtype.itemsize == 2 else np.uint8)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)


def _array(value: onnxruntime.OrtValue) -> Any:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
    if dtype.kind != "V":
        return value.numpy()
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, dtype).reshape(value.shape())
