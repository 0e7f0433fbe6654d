"""Is a result right? Node counts, sizes and outputs, by means that onnxopt has no part in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.benchmarks.zoo import Feed

MAX_GROWTH = 1.03
SPARE_BYTES = 65_536
"""What the names and annotations of a small model may take on top."""

_RELATIVE = 1e-3
_ABSOLUTE = 1e-5


def count_nodes(path: Path) -> int:
    """The nodes of a model without Constants, bodies and local functions counted once."""
    proto = onnx.load(path, load_external_data=False)
    bodies: list[Any] = [proto.graph, *proto.functions]
    return sum(1 for body in bodies for node in _nodes(body.node) if node.op_type != "Constant")


def count_loaded_nodes(path: Path) -> int:
    """The nodes that are left when onnxruntime has loaded the model with its own optimizations."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "loaded.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(target)
        weights = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(weights, "loaded.data")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return count_nodes(target)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def grew(before: int, folder: Path) -> bool:
    """Whether the files in `folder` are together larger than the growth budget allows."""
    after = sum(path.stat().st_size for path in folder.iterdir())
    return after > MAX_GROWTH * before + SPARE_BYTES


def outputs(path: Path, feed: Feed) -> list[Any]:
    """What plain onnxruntime, its optimizations off, makes of the feed."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    result: list[Any] = session.run(None, {name: feed[name] for name in feed if name in names})
    return result


def agree(expected: Any, found: Any) -> bool:
    """Equal structure, dtypes and shapes; numbers equal to a thousandth of the largest."""
    if isinstance(expected, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(expected)
        return same and all(map(agree, expected, found))
    if isinstance(expected, dict):
        return list(expected) == list(found) and all(agree(expected[k], found[k]) for k in expected)
    if expected is None or found is None:
        return expected is found
    a, b = np.asarray(expected), np.asarray(found)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not np.issubdtype(a.dtype, np.floating):
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return bool(np.allclose(a, b, 0.0, _ABSOLUTE + _RELATIVE * scale, equal_nan=True))
