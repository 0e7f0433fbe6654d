"""Whatever users bring is pruned on data: outputs in the middle, fused operators, lone vectors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pruning import drawn

import onnxopt
from onnxopt import io

CASES = {
    "an output before all channels": (
        """g (float[N,4] x) => (float[N,3] y, float[N,16] z) {
            a = MatMul(x, w0)
            z = Relu(a)
            b = MatMul(z, w1)  r = Relu(b)
            y = MatMul(r, w2)
        }""",
        {"w0": (4, 16), "w1": (16, 16), "w2": (16, 3)},
        (1, 4),
    ),
    "a head that is done early": (
        """g (float[N,4,6,6] x) => (float[N,2,6,6] early, float[N,2,6,6] late) {
            a = Conv(x, w0)  b = Relu(a)
            early = Conv(b, w1)
            c = Conv(b, w2)  d = Relu(c)
            late = Conv(d, w3)
        }""",
        {"w0": (16, 4, 1, 1), "w1": (2, 16, 1, 1), "w2": (16, 16, 1, 1), "w3": (2, 16, 1, 1)},
        (1, 4, 6, 6),
    ),
    "attention that a runtime has fused": (
        """g (float[N,5,16] x) => (float[N,5,16] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            c = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v)
            o = MatMul(c, wo)
            h = MatMul(o, w1)
            g = com.microsoft.BiasGelu(h, b1)
            y = MatMul(g, w2)
        }""",
        {
            "wq": (16, 32), "wk": (16, 32), "wv": (16, 32), "wo": (32, 16),
            "w1": (16, 32), "b1": 32, "w2": (32, 16),
        },
        (1, 5, 16),
    ),
    "a matrix times a vector": (
        """g (float[12] x) => (float[5] y) {
            a = MatMul(w0, x)
            r = Relu(a)
            y = MatMul(w1, r)
        }""",
        {"w0": (16, 12), "w1": (5, 16)},
        (12,),
    ),
    "no product that reads the channels": (
        """g (float[N,T,6] x) => (float[N,T,2] y) {
            a = MatMul(x, w0)
            r = Relu(a)
            y = Einsum<equation="ntc,cd->ntd">(r, w1)
        }""",
        {"w0": (6, 16), "w1": (16, 2)},
        (1, 3, 6),
    ),
}  # fmt: skip


def _case(name: str) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    text, weights, shape = CASES[name]
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(40)]
    return io.to_proto(drawn(text, **weights)), feeds


@pytest.mark.parametrize("target", [{"macs": 0.7}, {"ratio": 0.5}], ids=["macs", "ratio"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_pruned_and_won_back(name: str, target: dict[str, float]) -> None:
    model, feeds = _case(name)
    found = onnxopt.prune(model, data=feeds, bench=False, threads=1, **target)
    distances = found.report.divergences
    assert any(found.plan.removal.values())
    assert min(distances.values()) <= distances["removed"]
    assert [str(value.name) for value in found.model.graph.outputs] == [
        value.name for value in model.graph.output
    ]


def test_values_behind_an_operator_of_the_runtime_get_their_types() -> None:
    from onnxopt.quantize.observe import activations

    model = drawn(
        CASES["attention that a runtime has fused"][0],
        **CASES["attention that a runtime has fused"][1],
    )
    for value in (value for node in model.graph for value in node.outputs):
        value.type = None
    assert list(activations(model).values) == ["x", "q", "k", "v", "c", "o", "h", "g", "y"]
    assert all(isinstance(v.type, ir.TensorType) for v in activations(model).values.values())
