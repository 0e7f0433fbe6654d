"""What lint finds in quantized models, and what fix makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mode_models import CODED, RUNTIME
from quantize_graphs import Drawing

from onnxopt import io
from onnxopt.quantize.lint import KINDS, Fault, lint
from onnxopt.quantize.overflow import MOST, channel_rows, safe_codes, worst_pairs
from onnxopt.quantize.proof import prove
from onnxopt.quantize.repair import fix
from onnxopt.runtime.sessions import Session

ROOT = Path(__file__).resolve().parents[2]
IMAGE = (1, 8, 6, 6)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Planted:
    """A graph with one fault, and how near its repaired output is to what it stands for, in dB."""

    kind: str
    title: str
    draw: Callable[[Drawing], str | list[str]]
    least_db: float
    kernel: str


PLANTED: list[Planted] = []


def planted(kind: str, title: str, kernel: str, least_db: float = 30) -> Callable[[Any], Any]:
    def add(draw: Any) -> Any:
        PLANTED.append(Planted(kind, title, draw, least_db, kernel))
        return draw

    return add


def drawn(draw: Callable[[Drawing], str | list[str]]) -> onnx.ModelProto:
    g = Drawing()
    outputs = draw(g)
    return g.model(*([outputs] if isinstance(outputs, str) else outputs))


def conv(g: Drawing, x: str | None = None, *, pads: Any = (0, 0, 0, 0), **weight: Any) -> str:
    x = g.pair(g.input(*IMAGE)) if x is None else x
    return g.node("Conv", x, g.weight(8, 8, 3, 3, **weight), pads=pads)


@planted("misplaced-pair", "between a convolution and its Relu", "QLinearConv")
def _(g: Drawing) -> str:
    return g.pair(g.node("Relu", g.pair(conv(g), 0.1)), 0.05, 0)


@planted("misplaced-pair", "a Q that begins below its Relu", "QLinearConv")
def _(g: Drawing) -> str:
    return g.pair(g.node("Relu", conv(g)), 0.05, 100)


@planted("misplaced-pair", "a Q that ends above its Clip", "QLinearConv")
def _(g: Drawing) -> str:
    bounds = g.constant(np.float32(0)), g.constant(np.float32(2))
    return g.pair(g.node("Clip", conv(g), *bounds), 0.02, 0)


@planted("misplaced-pair", "two different Q on one output", "QLinearConv")
def _(g: Drawing) -> list[str]:
    c = conv(g)
    return [g.node("Softmax", g.pair(c, 0.1)), g.node("Tanh", g.pair(c, 0.09))]


@planted("misplaced-pair", "a float reader beside the Q", "QLinearConv")
def _(g: Drawing) -> list[str]:
    c = conv(g)
    return [g.pair(conv(g, g.pair(c))), g.node("Tanh", c)]


@planted("misplaced-pair", "the MatMul and Add trap", "QGemm")
def _(g: Drawing) -> str:
    m = g.node("MatMul", g.pair(g.input(4, 8)), g.weight(8, 16, axis=1))
    return g.node("Tanh", g.node("Add", m, g.weight(16, dtype=np.uint8, scale=0.001)))


@planted("misplaced-pair", "scales that differ around a MaxPool", "NhwcMaxPool")
def _(g: Drawing) -> str:
    c = g.pair(conv(g), 0.1)
    return g.pair(
        g.node(
            "Conv", g.pair(g.node("MaxPool", c, kernel_shape=[2, 2]), 0.12), g.weight(8, 8, 1, 1)
        ),
        0.1,
    )


@planted("misplaced-pair", "a float constant in a quantized Add", "QLinearAdd")
def _(g: Drawing) -> str:
    return g.pair(g.node("Add", g.pair(conv(g)), g.normal(8, 1, 1, spread=1.0)))


@planted("misplaced-pair", "around a Pad before a convolution", "QLinearConv")
def _(g: Drawing) -> str:
    edges = g.constant(np.array([0, 0, 1, 0, 0, 0, 1, 2]))
    padded = g.node("Pad", g.pair(g.input(*IMAGE)), edges, g.constant(np.float32(0)))
    return g.pair(conv(g, g.pair(padded), pads=[0, 1, 0, 1]))


@planted("misplaced-pair", "around a Pad of numbers that a Q has cut at 0", "QLinearConv")
def _(g: Drawing) -> str:
    edges = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    zero = g.dequantize(g.constant(np.uint8(7)), 0.1, 7)
    padded = g.node("Pad", g.pair(g.node("Relu", conv(g)), 0.05, 0), edges, zero)
    return g.pair(conv(g, g.pair(padded, 0.05, 0)))


@planted("wrong-axis", "scales along the input channels of a convolution", "QLinearConv")
def _(g: Drawing) -> str:
    return g.pair(conv(g, axis=1))


@planted("wrong-axis", "scales along the rows of a MatMul", "QLinearMatMul")
def _(g: Drawing) -> str:
    return g.pair(g.node("MatMul", g.pair(g.input(4, 8)), g.weight(8, 8, axis=0)))


@planted("wrong-axis", "scales along the wrong axis of a transposed Gemm", "QGemm")
def _(g: Drawing) -> str:
    return g.pair(g.node("Gemm", g.pair(g.input(4, 8)), g.weight(8, 8, axis=1), transB=1))


@planted("wrong-bias-scale", "in a convolution", "QLinearConv")
def _(g: Drawing) -> str:
    x = g.pair(g.input(*IMAGE))
    return g.pair(g.node("Conv", x, g.weight(8, 8, 3, 3), g.bias(8, 0.0003)))


@planted("wrong-bias-scale", "in a Gemm, where onnxruntime does not notice", "QGemm")
def _(g: Drawing) -> str:
    return g.pair(g.node("Gemm", g.pair(g.input(4, 8)), g.weight(8, 16), g.bias(16, 0.001)))


@planted("wrong-bias-scale", "in the Add behind a MatMul", "QGemm")
def _(g: Drawing) -> str:
    m = g.node("MatMul", g.pair(g.input(4, 8)), g.weight(8, 16))
    return g.node("Tanh", g.node("Add", m, g.bias(16, 0.001)))


@planted("signed-activations", "with two readers", "QLinearAdd")
def _(g: Drawing) -> str:
    p = g.pair(g.input(*IMAGE), dtype=np.int8)
    return g.pair(g.node("Add", p, p), 0.04, dtype=np.int8)


@planted("signed-activations", "a constant operand", "QLinearMul")
def _(g: Drawing) -> str:
    return g.pair(g.node("Mul", g.pair(conv(g)), g.weight(8, 1, 1, scale=0.02)))


def heavy(g: Drawing, *shape: int) -> str:
    codes = g.random.integers(60, 128, shape).astype(np.int8)
    return g.dequantize(g.constant(codes), 0.001, 0, np.int8)


@planted("saturation-risk", "in a convolution", "QLinearConv")
def _(g: Drawing) -> str:
    x = g.pair(g.input(*IMAGE))
    return g.pair(g.node("Conv", x, heavy(g, 8, 8, 3, 3)))


@planted("saturation-risk", "in a MatMul", "MatMulIntegerToFloat")
def _(g: Drawing) -> str:
    return g.node("MatMul", g.pair(g.input(4, 8)), heavy(g, 8, 16))


@planted("pure-overhead", "around a Tanh", "QLinearConv")
def _(g: Drawing) -> str:
    t = g.node("Tanh", g.node("Sin", g.pair(conv(g), 0.02)))
    return g.node("Elu", g.pair(t, 0.008))


@planted("pure-overhead", "around a convolution whose weight has 4 bits", "QLinearConv")
def _(g: Drawing) -> str:
    codes = g.constant(g.random.integers(-8, 8, (8, 8, 3, 3)).astype(ml_dtypes.int4))
    both = (
        g.constant(np.linspace(0.05, 0.1, 8).astype(np.float32)),
        g.constant(np.zeros(8, ml_dtypes.int4)),
    )
    weight = g.node("DequantizeLinear", codes, *both, axis=0)
    return g.pair(g.node("Conv", g.pair(g.input(*IMAGE)), weight), 0.1)


@planted("pure-overhead", "a quantized constant of a float node", "QLinearConv")
def _(g: Drawing) -> str:
    return g.node("PRelu", g.pair(conv(g)), g.weight(8, 1, 1, dtype=np.uint8))


def stored(g: Drawing, dtype: Any, low: int, high: int) -> list[str]:
    """A QLinearConv, a pooling of its codes and a QLinearAdd, as other tools store them."""

    def both(scale: float) -> list[str]:
        return g.parameters(scale, dtype=dtype)

    x, image, sums = both(0.02), both(0.1), both(0.15)
    codes = g.constant(g.random.integers(low, high, (8, 8, 3, 3)).astype(np.int8))
    scales = np.linspace(0.005, 0.01, 8).astype(np.float32)
    weight = [codes, g.constant(scales), g.constant(np.zeros(8, np.int8))]
    bias = g.constant(g.random.integers(-999, 999, 8).astype(np.int32))
    q = g.node("QuantizeLinear", g.input(*IMAGE), *x)
    c = g.node("QLinearConv", q, *x, *weight, *image, bias)
    p = g.node("MaxPool", c, kernel_shape=[2, 2])
    a = g.node("QLinearAdd", p, *image, p, *image, *sums, contrib=True)
    return [g.node("DequantizeLinear", a, *sums)]


@planted("signed-activations", "in an operator that holds codes", "QLinearConv")
def _(g: Drawing) -> list[str]:
    return stored(g, np.int8, -60, 60)


@planted("saturation-risk", "in an operator that holds codes", "QLinearConv")
def _(g: Drawing) -> list[str]:
    return stored(g, np.uint8, -128, 128)


@planted("saturation-risk", "in a dynamically quantized product", "DynamicQuantizeMatMul")
def _(g: Drawing) -> str:
    codes, scale, zero = g.node("DynamicQuantizeLinear", g.input(4, 8), count=3)
    weight = g.constant(g.random.integers(-128, 128, (8, 16)).astype(np.int8))
    sums = g.node("MatMulInteger", codes, weight, zero)
    factor = g.node("Mul", scale, g.constant(np.float32(0.01)))
    return g.node("Mul", g.node("Cast", sums, to=onnx.TensorProto.FLOAT), factor)


def requantized(g: Drawing) -> str:
    """A convolution as onnxruntime's dynamic quantizer writes it."""
    codes, scale, zero = g.node("DynamicQuantizeLinear", g.input(*IMAGE), count=3)
    weight = g.constant(g.random.integers(-60, 60, (8, 8, 3, 3)).astype(np.int8))
    sums = g.node("ConvInteger", codes, weight, zero, g.constant(np.int8(0)))
    factor = g.node("Mul", scale, g.constant(np.float32(0.01)))
    return g.node("Mul", g.node("Cast", sums, to=onnx.TensorProto.FLOAT), factor)


def test_a_convolution_whose_input_is_quantized_in_every_run_becomes_a_float_one() -> None:
    model = drawn(requantized)
    assert [fault.kind for fault in lint(model)] == ["pure-overhead"]
    repaired = fix(model)
    assert [node.op_type for node in repaired.model.graph] == ["Conv"]
    assert repaired.left == ()
    if RUNTIME >= (1, 24):  # what loads this operator at all
        assert decibels(model, repaired.model) > 30


def test_a_pad_with_another_number_or_another_reader_stays() -> None:
    edges = np.array([0, 0, 1, 1, 0, 0, 1, 1])

    def filled(g: Drawing) -> str:
        both = g.constant(edges), g.constant(np.float32(1))
        return g.pair(conv(g, g.pair(g.node("Pad", g.pair(g.input(*IMAGE)), *both))))

    def read_twice(g: Drawing) -> list[str]:
        padded = g.pair(g.node("Pad", g.pair(g.input(*IMAGE)), g.constant(edges)))
        return [g.pair(conv(g, padded)), g.node("Tanh", padded)]

    for draw in (filled, read_twice):
        assert "Pad" in {node.op_type for node in fix(drawn(draw)).model.graph}


def test_a_bias_that_nearly_fills_32_bits_follows_the_scale_of_its_weight() -> None:
    def draw(g: Drawing) -> str:
        bias = g.dequantize(g.constant(np.full(8, 2**31 - 999, np.int32)), 2e-5, 0, np.int32)
        return g.pair(g.node("Conv", g.pair(g.input(*IMAGE)), heavy(g, 8, 8, 3, 3), bias), 400, 0)

    repaired = fix(drawn(draw))
    assert repaired.left == () and "QLinearConv" in prove(repaired.model).kernels


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_product_of_which_only_the_weight_is_coded_is_no_fault(dtype: str) -> None:
    def draw(g: Drawing) -> str:
        codes = g.constant(np.ones((32, 16), ml_dtypes.int4 if dtype == "int4" else "i1"))
        scales = g.constant(np.full((1, 16) if dtype == "int4" else 16, 0.1, "f4"))
        block = {"block_size": 32, "axis": 0} if dtype == "int4" else {"axis": 1}
        weight = g.node("DequantizeLinear", codes, scales, **block)
        return g.node("Add", g.node("MatMul", g.input(4, 32), weight), g.normal(16))

    model = drawn(draw)
    assert ("MatMulNBits" in prove(model).kernels) == (CODED == "MatMulNBits")
    assert lint(model) == ()


def test_operators_that_hold_codes_stay_where_nothing_is_wrong_with_them() -> None:
    model = drawn(lambda g: stored(g, np.uint8, -60, 60))
    assert lint(model) == ()
    assert "QLinearConv" in {node.op_type for node in fix(model).model.graph}


def test_what_can_not_be_written_as_pairs_stays_as_it_is_and_is_said_to() -> None:
    def draw(g: Drawing) -> str:
        x, y = g.parameters(0.02, dtype=np.int8), g.parameters(0.1, dtype=np.int8)
        q = g.node("QuantizeLinear", g.input(4, 8), *x)
        codes = g.constant(g.random.integers(-60, 60, (8, 16)).astype(np.int8))
        w = [codes, g.input(), g.constant(np.int8(0))]
        return g.node("DequantizeLinear", g.node("QLinearMatMul", q, *x, *w, *y), *y)

    model = drawn(draw)
    (fault,) = lint(model)
    assert (fault.kind, fault.fix_possible) == ("signed-activations", False)
    repaired = fix(model)
    assert repaired.left and "QLinearMatMul" in {node.op_type for node in repaired.model.graph}


@pytest.mark.parametrize("plant", PLANTED, ids=[f"{p.kind}: {p.title}" for p in PLANTED])
def test_a_planted_fault_is_found_and_repaired(plant: Planted) -> None:
    model = drawn(plant.draw)
    found = [fault for fault in lint(model) if fault.kind == plant.kind]
    assert found and all(fault.fix_possible for fault in found)
    repaired = fix(model)
    assert {fault.kind for fault in repaired.fixed} >= {plant.kind}
    assert not [fault for fault in repaired.left if fault.kind == plant.kind]
    assert plant.kernel in prove(repaired.model).kernels
    assert decibels(model, repaired.model) >= plant.least_db


def test_every_kind_of_fault_is_planted() -> None:
    assert {plant.kind for plant in PLANTED} == set(KINDS)


def test_a_model_without_faults_stays_as_it_is() -> None:
    model = drawn(lambda g: g.pair(g.node("Relu", conv(g)), 0.02, 0))
    assert lint(model) == ()
    repaired = fix(model)
    assert (repaired.fixed, repaired.left) == ((), ())
    assert [node.op_type for node in repaired.model.graph] == [n.op_type for n in model.graph.node]


def test_fix_leaves_the_given_model_alone() -> None:
    model = io.load(drawn(lambda g: g.pair(g.node("Relu", conv(g)), 0.02, 100)))
    before = io.to_proto(model).SerializeToString(deterministic=True)
    fix(model)
    assert io.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_fault_that_needs_data_is_said_to_be_beyond_repair() -> None:
    found = lint(drawn(lambda g: g.node("Tanh", conv(g))))
    assert Fault("misplaced-pair", "the_conv8", found[0].message, False) == found[0]
    assert "no Q reads its output" in found[0].message


def test_a_q_that_stands_for_a_relu_does_not_go_without_one() -> None:
    """Quantizers take a Relu away where the Q after it starts at 0."""

    def draw(g: Drawing) -> str:
        return g.node("Sin", g.pair(g.node("Tanh", g.input(*IMAGE)), 1 / 255, 0))

    model = drawn(draw)
    repaired = fix(model)
    assert [node.op_type for node in repaired.model.graph] == ["Tanh", "Clip", "Sin"]
    assert decibels(model, repaired.model) > 40


def test_stored_codes_that_can_overflow_are_found() -> None:
    def draw(g: Drawing) -> str:
        codes = g.constant(np.full((8, 16), 100, np.int8))
        return g.node("MatMulInteger", g.quantize(g.input(4, 8)), codes, g.constant(np.uint8(128)))

    g = Drawing()
    g.output(draw(g), dtype=onnx.TensorProto.INT32)
    (fault,) = lint(g.model())
    assert (fault.kind, fault.fix_possible) == ("saturation-risk", False)


@pytest.mark.parametrize(
    ("shape", "op_type"), [((8, 6, 3, 3), "Conv"), ((9, 16), "MatMul"), ((7, 5), "Gemm")]
)
def test_safe_codes_can_not_overflow_16_bits(shape: tuple[int, ...], op_type: str) -> None:
    random = np.random.default_rng(0)
    weight = np.abs(random.standard_normal(shape))
    axis = 0 if op_type == "Conv" else len(shape) - 1
    others = tuple(i for i in range(len(shape)) if i != axis)
    scale = weight.max(axis=others) / 127
    codes, scales = safe_codes(weight, scale, op_type, False)
    rows = channel_rows(codes, op_type)
    assert rows is not None and worst_pairs(rows).max() <= MOST
    assert (scales >= scale).all()
    pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).astype(np.int64)
    sums = 255 * (pairs[:, 0::2] + pairs[:, 1::2])
    assert sums.max() < 2**15 and sums.min() >= -(2**15)


def test_a_depthwise_convolution_keeps_its_8_bits() -> None:
    def draw(g: Drawing) -> str:
        return g.pair(g.node("Conv", g.pair(g.input(*IMAGE)), heavy(g, 8, 1, 3, 3), group=8))

    assert lint(drawn(draw)) == ()


class _Feeds:
    """Random images, as onnxruntime's calibrators ask for them."""

    def __init__(self, name: str, images: Array) -> None:
        self._left = iter([{name: images}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


@pytest.fixture(scope="module")
def by_default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model as onnxruntime's quantizer makes it when nothing is asked for."""
    from onnxruntime.quantization import quantize_static

    path = tmp_path_factory.mktemp("default") / "quantized.onnx"
    quantize_static(str(FLOAT), str(path), _Feeds("input", images(0, 32)))
    return path


FLOAT = ROOT / "models" / "cifar_resnet20.onnx"


def images(seed: int, count: int) -> Array:
    """Blobs rather than noise: neighbours in a picture are alike."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((count, 3, 8, 8))
    smooth: Array = coarse.repeat(4, axis=2).repeat(4, axis=3)
    return (smooth + 0.1 * random.standard_normal(smooth.shape)).astype(np.float32)


def test_a_default_model_of_onnxruntime_gets_more_integers_and_no_less_accurate(
    by_default: Path,
) -> None:
    repaired = fix(by_default)
    assert repaired.left == ()
    before, after = prove(by_default), prove(repaired.model)
    assert before.kernels.get("QLinearConv", 0) == 0
    assert (after.kernels["QLinearConv"], after.kernels["QLinearAdd"]) == (19, 9)
    assert len(after.integer) > len(before.integer)
    assert sum(after.borders.values()) < sum(before.borders.values()) / 10
    feeds = {"input": images(1, 64)}
    wanted, worse, better = (run(model, feeds)[0] for model in (FLOAT, by_default, repaired.model))
    assert signal(wanted, better) >= signal(wanted, worse)
    # One image of 64 is chance.
    right, left = ((wanted.argmax(1) == each.argmax(1)).sum() for each in (better, worse))
    assert right >= left - 1


def run(model: Any, feeds: dict[str, Array], optimize: bool = True) -> list[Array]:
    return Session.open(model, optimize=optimize, threads=1).run(feeds)


def signal(wanted: Array, given: Array) -> float:
    """Signal to noise, in dB."""
    noise = np.square(wanted.astype(np.float64) - given).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / max(noise, 1e-30)))


def decibels(model: onnx.ModelProto, repaired: ir.Model) -> float:
    """How near the repaired model, as it is used, is to what the faulty one says by ONNX's word."""
    random = np.random.default_rng(1)
    shapes = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    feeds = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    pairs = zip(run(model, feeds, optimize=False), run(repaired, feeds), strict=True)
    return min(signal(wanted, given) for wanted, given in pairs)
