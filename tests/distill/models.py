"""Small models for the tests of distillation, as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxopt import io


def model(text: str, weights: dict[str, Any], *, opset: int = 20, ir_version: int = 10) -> ir.Model:
    """The graph of the text with these initializers."""
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> {text}'
    )
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    )
    onnx.checker.check_model(proto, full_check=True)
    return io.load(proto)


def classifier(hidden: int, seed: int, *, inputs: int = 8, classes: int = 3) -> ir.Model:
    """A multi-layer perceptron x → y with random weights."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    return model(
        f"g (float[n,{inputs}] x) => (float[n,{classes}] y)"
        "{ h = Gemm(x, w1, b1)  r = Relu(h)  y = Gemm(r, w2, b2) }",
        {
            "w1": normal(inputs, hidden),
            "b1": np.zeros(hidden, np.float32),
            "w2": normal(hidden, classes) * 4,
            "b2": np.zeros(classes, np.float32),
        },
    )


def rows(count: int = 120, *, inputs: int = 8, seed: int = 0) -> dict[str, Any]:
    """Random samples for `classifier`."""
    return {"x": np.random.default_rng(seed).normal(size=(count, inputs)).astype(np.float32)}
