"""Prepared weights and biases bring a quantized model nearer to the float one, method by method."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import parse

from onnxopt import registry
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize.calibrate import collect
from onnxopt.quantize.correction import correct_biases
from onnxopt.quantize.covariance import Covariance
from onnxopt.quantize.insert import insert
from onnxopt.quantize.plan import make_plan
from onnxopt.quantize.saturation import kernel_rows, saturates
from onnxopt.quantize.weights import METHODS, Statistics, prepare_weights

RANDOM = np.random.default_rng(1)
SPECS = registry.quant_specs()


def weight(name: str, *shape: int, spread: float = 0.3, middle: float = 0.0) -> str:
    numbers = RANDOM.standard_normal(int(np.prod(shape))) * spread + middle
    text = ",".join(f"{value:.4f}" for value in numbers)
    return f"float[{','.join(map(str, shape))}] {name} = {{{text}}}"


NETWORK = f"""
g (float[N,8,6,6] x) => (float[N,4] y) <
  {weight("w1", 16, 8, 3, 3)}, {weight("b1", 16)}, {weight("w2", 16, 1, 3, 3)},
  {weight("w3", 8, 16, 1, 1)}, {weight("b3", 8)}, {weight("w4", 8, 4)}, int64[2] s = {{0, -1}}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a)
   [c2] c = Conv<group = 16, pads = [1,1,1,1]>(b, w2) [r2] d = Relu(c) [c3] e = Conv(d, w3, b3)
   [sum] f = Add(x, e) [pool] h = GlobalAveragePool(f) [flat] k = Reshape(h, s)
   [out] y = Gemm(k, w4) }}"""

ENCODER = f"""
g (float[N,5,32] x) => (float[N,5,24] y) <{weight("w", 32, 24)}, {weight("b", 24)}>
{{ [m] a = MatMul(x, w) [add] y = Add(a, b) }}"""


def samples(*shape: int, count: int = 12) -> list[dict[str, Any]]:
    """Inputs whose channels hang together, as those of real networks do."""
    mix = RANDOM.standard_normal((shape[0], shape[0])) @ np.diag(np.geomspace(1, 0.05, shape[0]))
    raw = RANDOM.standard_normal((count, 2, *shape)) + 0.3
    mixed = np.einsum("dc,nbc...->nbd...", mix, raw).astype(np.float32)
    return [{"x": array} for array in mixed]


class Case:
    def __init__(self, text: str, *shape: int, last: bool = False) -> None:
        self.model = ir.from_proto(parse(text))
        shapes.infer(self.model)
        feeds = samples(*shape)
        if last:
            feeds = [{"x": np.ascontiguousarray(feed["x"].swapaxes(1, 2))} for feed in feeds]
        self.feeds, self.test = feeds[:8], feeds[8:]
        self.ranges = collect(self.model, self.feeds, threads=1)
        # As an Add of integers the row would stand behind a pair of its own.
        self.plan = make_plan(self.model, self.ranges, SPECS, keep_float=frozenset({"add"}))
        self.wanted = self.run(self.model, self.test)

    def run(self, model: ir.Model, feeds: list[dict[str, Any]]) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        return np.concatenate([session.run(None, feed)[0] for feed in feeds])

    def prepared(self, *methods: str) -> Any:
        statistics = Statistics(self.ranges, {}, self.feeds)
        return prepare_weights(self.model, self.plan, SPECS, statistics, methods=methods, threads=1)

    def quantized(self, codes: Any, biases: Any) -> ir.Model:
        model = self.model.clone()
        insert(model, self.plan, SPECS, codes, biases)
        return model

    def outputs(self, *methods: str) -> Any:
        return self.run(self.quantized(*self.prepared(*methods)), self.test)


@pytest.fixture(scope="module")
def network() -> Case:
    return Case(NETWORK, 8, 6, 6)


def noise(found: Any, wanted: Any) -> float:
    return float(np.square(found - wanted).mean())


def test_all_methods_together_lower_the_noise(network: Case) -> None:
    plain = noise(network.outputs(), network.wanted)
    assert noise(network.outputs("rounding", "bias"), network.wanted) < plain
    assert noise(network.outputs(*METHODS), network.wanted) < 0.03 * float(network.wanted.var())


def test_safe_codes_are_safe_whatever_else_is_done(network: Case) -> None:
    plain, _ = network.prepared()
    assert saturates(kernel_rows(plain["c1"][0], "Conv", 0)).any()
    for methods in (("saturation",), METHODS):
        codes, _ = network.prepared(*methods)
        assert set(codes) == {"c1", "c2", "c3", "out"}
        assert not saturates(kernel_rows(codes["c1"][0], "Conv", 0)).any()
        assert not saturates(kernel_rows(codes["out"][0], "Gemm", 1)).any()


def test_a_depthwise_convolution_keeps_all_bits(network: Case) -> None:
    codes, _ = network.prepared("saturation")
    assert (np.abs(codes["c2"][0]).reshape(16, -1).max(axis=1) == 127).all()


@pytest.mark.parametrize("text", [NETWORK, ENCODER])
def test_corrected_means_are_the_float_models(text: str) -> None:
    case = Case(text, 8, 6, 6) if text is NETWORK else Case(text, 32, 5, last=True)
    codes, _ = case.prepared("saturation")
    codes = {name: (_biased(array), scale) for name, (array, scale) in codes.items()}
    biases = correct_biases(case.model, case.plan, SPECS, codes, case.feeds, threads=1)
    axes = tuple(range(case.wanted.ndim - 1))
    wanted = case.run(case.model, case.feeds).mean(axis=axes)
    before = case.run(case.quantized(codes, {}), case.feeds).mean(axis=axes)
    after = case.run(case.quantized(codes, biases), case.feeds).mean(axis=axes)
    assert np.abs(after - wanted).max() < 0.1 * np.abs(before - wanted).max()


def test_means_are_those_behind_the_relu_that_follows() -> None:
    text = f"""
    g (float[N,8,6,6] x) => (float[N,16,6,6] y) <{weight("w", 16, 8, 3, 3)}, {weight("b", 16)}>
    {{ [c] a = Conv<pads = [1,1,1,1]>(x, w, b) [r] y = Relu(a) }}"""
    case = Case(text, 8, 6, 6)
    codes, _ = case.prepared("saturation")
    # Weights that are a tenth too large change what is above zero and below it in opposite ways.
    codes = {name: (array, np.float32(scale * 1.1)) for name, (array, scale) in codes.items()}
    biases = correct_biases(case.model, case.plan, SPECS, codes, case.feeds, threads=1)
    wanted = case.run(case.model, case.feeds).mean(axis=(0, 2, 3))
    before = case.run(case.quantized(codes, {}), case.feeds).mean(axis=(0, 2, 3))
    after = case.run(case.quantized(codes, biases), case.feeds).mean(axis=(0, 2, 3))
    assert np.abs(after - wanted).max() < 0.2 * np.abs(before - wanted).max()


def _biased(codes: Any) -> Any:
    """Codes that are all too large, as a clumsy rounding would leave them."""
    return np.clip(codes.astype(np.int64) + 6, -127, 127).astype(np.int8)


def test_a_node_without_a_bias_gets_one(network: Case) -> None:
    _, biases = network.prepared("bias")
    assert {name: array.shape for name, array in biases.items()} == {
        "c1": (16,), "c2": (16,), "c3": (8,), "out": (4,),
    }  # fmt: skip
    model = network.quantized({}, biases)
    nodes = {node.name: node for node in model.graph}
    assert len(nodes["c2"].inputs) == 3 and len(nodes["out"].inputs) == 3


def test_the_row_added_behind_a_matmul_takes_the_correction() -> None:
    case = Case(ENCODER, 32, 5, last=True)
    codes, biases = case.prepared(*METHODS)
    assert set(biases) == {"m"} and biases["m"].shape == (24,)
    model = case.quantized(codes, biases)
    row = next(node for node in model.graph if node.name == "add").inputs[1]
    producer = None if row is None else row.producer()
    assert producer is not None and producer.op_type == "DequantizeLinear"


def test_without_samples_weights_are_only_made_safe(network: Case) -> None:
    codes, biases = prepare_weights(network.model, network.plan, SPECS, Statistics(network.ranges))
    assert biases == {}
    safe, _ = network.prepared("saturation")
    assert all((codes[name][0] == safe[name][0]).all() for name in safe)


def test_the_same_samples_give_the_same_codes_and_biases(network: Case) -> None:
    first, second = network.prepared(*METHODS), network.prepared(*METHODS)
    assert all((first[0][name][0] == second[0][name][0]).all() for name in first[0])
    assert all((first[1][name] == second[1][name]).all() for name in first[1])


def test_an_unknown_method_is_refused(network: Case) -> None:
    with pytest.raises(BadInput, match="no weight method 'magic'"):
        network.prepared("magic")


def test_rounding_leaves_the_means_to_the_bias_where_one_is_corrected(network: Case) -> None:
    alone, _ = network.prepared("rounding")
    followed, _ = network.prepared("rounding", "bias")
    assert any((alone[name][0] != followed[name][0]).any() for name in alone)


def test_a_product_without_a_bias_to_correct_is_rounded_with_its_means() -> None:
    text = f"""
    g (float[N,5,32] x) => (float[N,5,24] y) <{weight("w", 32, 24)}> {{ [m] y = MatMul(x, w) }}"""
    case = Case(text, 32, 5, last=True)
    alone, followed = case.prepared("rounding")[0], case.prepared("rounding", "bias")[0]
    assert (alone["m"][0] == followed["m"][0]).all()


def test_what_few_vectors_have_in_common_does_not_move_codes(network: Case) -> None:
    size = 8 * 3 * 3
    pairs = np.kron(np.eye(size // 2), [[1, 0.999], [0.999, 1]])[None]
    found = {}
    for count in (1, 1_000_000):
        moments = {"c1": Covariance(pairs, np.zeros((1, size)), count)}
        statistics = Statistics(network.ranges, moments, network.feeds)
        codes, _ = prepare_weights(
            network.model, network.plan, SPECS, statistics, methods=("rounding",), threads=1
        )
        found[count] = codes["c1"][0].astype(int)
    nearest = network.prepared()[0]["c1"][0].astype(int)
    moved = {count: (codes != nearest).mean() for count, codes in found.items()}
    assert moved[1] < 0.01 and moved[1_000_000] > 0.1
