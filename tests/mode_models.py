"""Small float models, drawn node by node, and what a mode makes of them: for tests of modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult
from onnxopt.check.metric import sqnr_db
from onnxopt.quantize.modes import outputs

RANDOM = np.random.default_rng(0)
K, N = 64, 96
RUNTIME = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
"""The version of onnxruntime; for Python 3.10 there is none after 1.23."""
CODED = "MatMulNBits" if RUNTIME >= (1, 25) else "float"
"""What computes a product with 8-bit weights, or with 4-bit ones in whole channels."""


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return (RANDOM.standard_normal(shape) * 0.1).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    *,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
    results: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    given = inputs or {"x": (TensorProto.FLOAT, ["batch", K])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def kernels(result: QuantizeResult) -> dict[str, str]:
    return {layer.node: layer.kernel for layer in result.report.layers}


def loss_db(given: onnx.ModelProto, result: QuantizeResult, **feed: Any) -> float:
    made, wanted = (outputs(each, [feed], 1) for each in (result.model, io.load(given)))
    return sqnr_db(wanted, made)
