"""The models to measure on: a folder of NAME/model.onnx with inputs.npz, or of NAME.onnx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feed = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT.parent / "shared" / "zoo" / "models", ROOT / ".zoo", ROOT / "models")
LARGE_BYTES = 15_000_000

_SIZES = {1: 1, 2: 64, 3: 64, 4: 160}


@dataclass(frozen=True, slots=True)
class Model:
    """A model file with the name it has in the tables."""

    name: str
    path: Path

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def overridable(self) -> bool:
        """Whether a caller may override weights that other tools take for constants."""
        proto = onnx.load(self.path, load_external_data=False)
        held = {tensor.name for tensor in proto.graph.initializer}
        return proto.ir_version >= 4 and any(info.name in held for info in proto.graph.input)


def models(folder: Path | None = None, only: tuple[str, ...] = ()) -> list[Model]:
    """The models of `folder`, or of the first folder that is there; `only` keeps these names."""
    found = [folder] if folder is not None else [path for path in FOLDERS if path.is_dir()]
    listed: list[Model] = []
    for path in sorted(found[0].glob("*/model.onnx")):
        listed.append(Model(path.parent.name, path))
    for path in sorted(found[0].glob("*.onnx")):
        listed.append(Model(path.stem, path))
    unknown = set(only) - {model.name for model in listed}
    if unknown or not listed:
        raise SystemExit(f"{found[0]} does not have {', '.join(sorted(unknown)) or 'any model'}")
    return [model for model in listed if not only or model.name in only]


def feed(model: Model) -> Feed:
    """The inputs stored beside the model, or random ones."""
    stored = model.path.with_name("inputs.npz")
    if stored.is_file():
        with np.load(stored, allow_pickle=True) as arrays:
            return {name.replace("__SL__", "/"): arrays[name] for name in arrays.files}
    proto = onnx.load(model.path, load_external_data=False)
    held = {tensor.name for tensor in proto.graph.initializer}
    random = np.random.default_rng(0)
    return {
        info.name: _random(info.type.tensor_type, random)
        for info in proto.graph.input
        if info.name not in held
    }


def _random(kind: onnx.TypeProto.Tensor, random: np.random.Generator) -> Any:
    """Values for one input; an open first dim is a batch of one, the others are an image."""
    open_size = _SIZES.get(len(kind.shape.dim), 8)
    shape = [
        dim.dim_value if dim.dim_value > 0 else (open_size if index else 1)
        for index, dim in enumerate(kind.shape.dim)
    ]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
