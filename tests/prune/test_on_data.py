"""Whatever users bring is pruned on data: outputs in the middle, fused operators, lone vectors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from pruning import as_nodes, drawn, loop

import onnxopt
from onnxopt import io
from onnxopt.errors import BadInput

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


def _as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as IR version 3 wrote it: all weights are listed as inputs as well."""
    model.ir_version = 3
    for opset in model.opset_import:
        opset.version = 8 if opset.domain == "" else opset.version
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


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


@pytest.mark.parametrize("name", CASES)
def test_weights_in_constant_nodes_are_pruned_as_others_are(name: str) -> None:
    model, feeds = _case(name)
    plain = onnxopt.prune(model, data=feeds, bench=False, threads=1, macs=0.7)
    found = onnxopt.prune(as_nodes(model), data=feeds, bench=False, threads=1, macs=0.7)
    assert found.plan.removal == plain.plan.removal
    assert found.report.divergences == pytest.approx(plain.report.divergences, rel=1e-3)


def test_weights_that_are_listed_as_inputs_are_pruned() -> None:
    model, feeds = _case("a head that is done early")
    found = onnxopt.prune(_as_inputs(model), data=feeds, bench=False, threads=1, macs=0.7)
    assert found.report.divergences["in sequence"] < found.report.divergences["removed"]


def test_a_loop_whose_weights_are_outside_is_pruned() -> None:
    proto = io.to_proto(loop())
    (body,) = (node.attribute[0].g for node in proto.graph.node if node.op_type == "Loop")
    for value in (proto.graph.input[1], body.input[0], body.input[1]):
        value.type.tensor_type.shape.SetInParent()
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.normal(size=(1, 3)).astype(np.float32), "times": np.array(3)}
        for _ in range(20)
    ]
    found = onnxopt.prune(proto, data=feeds, bench=False, threads=1, macs=0.7)
    assert any(found.plan.removal.values())


SOUND = """g (float[N,1,T] x) => (float[N,2,F] y) {
    a = Conv<strides=[8]>(x, w0)
    r = Relu(a)
    y = Conv(r, w1)
}"""


def test_work_is_counted_at_the_sizes_of_the_samples() -> None:
    model = io.to_proto(drawn(SOUND, w0=(16, 1, 16), w1=(2, 16, 1)))
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 1, 80)).astype(np.float32)} for _ in range(20)]
    found = onnxopt.prune(model, data=feeds, bench=False, threads=1, macs=0.7)
    first, _, last = found.report.stages
    assert first.macs == 9 * 16 * 16 + 9 * 16 * 2
    assert last.macs <= 0.7 * first.macs
    with pytest.raises(BadInput, match="inputs are of open size"):
        onnxopt.prune(model, bench=False, threads=1, macs=0.7)


def test_a_branch_that_no_sample_takes_stays() -> None:
    model = drawn(
        """g (float[N,3] x, bool[] c) => (float[N,2] y) {
            y = If (c) <
                then_branch = yes () => (float[N,2] t) {
                    t0 = MatMul(x, w1)  t1 = Relu(t0)  t = MatMul(t1, w2)
                },
                else_branch = no () => (float[N,2] e) {
                    e0 = MatMul(x, w3)  e1 = Relu(e0)  e = MatMul(e1, w4)
                }
            >
        }""",
        w1=(3, 16), w2=(16, 2), w3=(3, 8), w4=(8, 2),
    )  # fmt: skip
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.normal(size=(1, 3)).astype(np.float32), "c": np.array(True)} for _ in range(20)
    ]
    found = onnxopt.prune(io.to_proto(model), data=feeds, bench=False, threads=1, macs=0.7)
    (group,) = (each for each in found.plan.groups if each.remove)
    assert group.size == 16
    with pytest.raises(BadInput, match="a branch that no sample takes"):
        onnxopt.prune(io.to_proto(model), data=feeds, bench=False, threads=1, macs=0.05)


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
