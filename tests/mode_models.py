"""Small float models, drawn node by node, and what a mode makes of them: for tests of modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult
from onnxopt.check.metric import sqnr_db
from onnxopt.quantize.modes import outputs

RANDOM = np.random.default_rng(0)
K, N = 64, 96


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
