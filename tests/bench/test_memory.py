from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxopt.bench.memory import peak_bytes
from onnxopt.errors import RuntimeFailed

CPU = ("CPUExecutionProvider",)
FEED = {"x": np.ones((1, 4), np.float32)}


def saved(path: Path, width: int) -> Path:
    weight = numpy_helper.from_array(np.ones((4, width), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, width])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_larger_weight_takes_more_memory(tmp_path: Path) -> None:
    small = peak_bytes(saved(tmp_path / "small.onnx", 8), [FEED], CPU, 1)
    large = peak_bytes(saved(tmp_path / "large.onnx", 4_000_000), [FEED], CPU, 1)
    assert small is not None
    assert large is not None
    assert small < 64e6 <= large - small


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed, match=r"memory of missing\.onnx"):
        peak_bytes(tmp_path / "missing.onnx", [FEED], CPU, 1)
