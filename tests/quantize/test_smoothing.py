"""Activations with channels that stick out: made even, exactly, where that pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mode_models import K, N, kernels, model, normal
from onnx import helper

from onnxopt import io
from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.check.metric import sqnr_db
from onnxopt.passes import shapes
from onnxopt.quantize import code_modes
from onnxopt.quantize.modes import outputs
from onnxopt.quantize.sites import sites
from onnxopt.quantize.smoothing import smoothed, smoothing_factors

OUTLIERS = np.ones(K, np.float32)
OUTLIERS[[3, 40]] = 60.0
ROW = {"gamma": OUTLIERS, "beta": normal(K)}
NORM = helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], "norm")


def product(number: int) -> onnx.NodeProto:
    return helper.make_node("MatMul", ["n", f"w{number}"], [f"y{number}"], f"mul{number}")


def weights(*numbers: int) -> dict[str, Any]:
    """Weights that are small where the activations stick out, as training makes them."""
    return {f"w{i}": (normal(K, N).T / OUTLIERS).T for i in numbers}


RESIDUAL = model(
    [NORM, product(0), helper.make_node("Neg", ["n"], ["r"])],
    {**weights(0), **ROW}, results=("y0", "r"),
)  # fmt: skip
ALONE = model([NORM, product(0), product(1)], {**weights(0, 1), **ROW}, results=("y0", "y1"))
EVEN = model([helper.make_node("MatMul", ["x", "w"], ["y"], "mul0")], {"w": normal(K, N)})
TRANSPOSED = model(
    [NORM, helper.make_node("Gemm", ["n", "w"], ["y0"], "mul0", transB=1)],
    {"w": normal(N, K) / OUTLIERS, **ROW}, results=("y0",),
)  # fmt: skip
SCALED = model(
    [helper.make_node("Mul", ["gamma", "x"], ["n"], "norm"), product(0)],
    {"gamma": OUTLIERS, **weights(0)}, results=("y0",),
)  # fmt: skip
FEEDS = [{"x": np.random.default_rng(i).standard_normal((7, K)).astype("f4")} for i in range(20)]
ASKED: dict[str, Any] = {"mode": "dynamic", "data": FEEDS, "bench": False, "threads": 1,
                         "metric": "sqnr", "max_drop": 1}  # fmt: skip


def dynamic(given: onnx.ModelProto, **asked: Any) -> QuantizeResult:
    return quantize(given, **{**ASKED, **asked})


def loaded(given: onnx.ModelProto) -> ir.Model:
    found = io.load(given)
    shapes.infer(found)
    return found


def factors(given: ir.Model) -> dict[str, Any]:
    products = [site for site in sites(given) if site.kind == "product"]
    return smoothing_factors(given, products, FEEDS, threads=1)


@pytest.mark.parametrize("given", [RESIDUAL, ALONE, TRANSPOSED, SCALED])
def test_the_floats_stay_what_they_were(given: onnx.ModelProto) -> None:
    before = loaded(given)
    found = factors(before)
    assert set(found) == {"n"}
    after = smoothed(before, found, {"mul0", "mul1"})
    wanted = outputs(loaded(given), FEEDS[:3], 1)
    assert sqnr_db(wanted, outputs(after, FEEDS[:3], 1)) > 110
    reaches = []
    for each, name in ((before, "n"), (after, after_name(after))):
        copy = each.clone()
        value = next(v for node in copy.graph for v in node.outputs if v.name == name)
        copy.graph.outputs.append(value)
        rows = np.concatenate([run[name] for run in outputs(copy, FEEDS[:3], 1)])
        reach = np.abs(rows).max(axis=0)
        reaches.append(reach.max() / np.median(reach))
    assert reaches[1] < reaches[0] / 5


def after_name(after: ir.Model) -> str:
    """What the first product reads."""
    node = next(node for node in after.graph if node.name == "mul0")
    return node.inputs[0].name or ""


@pytest.mark.parametrize(
    ("given", "nodes"), [(RESIDUAL, 1), (ALONE, 0), (TRANSPOSED, 0), (SCALED, 0)]
)
def test_a_node_is_added_only_where_others_read_the_value(
    given: onnx.ModelProto, nodes: int
) -> None:
    before = loaded(given)
    after = smoothed(before, factors(before), {"mul0", "mul1"})
    assert len(list(after.graph)) - len(list(before.graph)) == nodes


def test_a_product_that_stays_float_keeps_its_weight() -> None:
    before = loaded(ALONE)
    after = smoothed(before, factors(before), {"mul0"})
    nodes = {node.name: node for node in after.graph}
    assert nodes["mul1"].inputs[0].name == "n"
    assert nodes["mul1"].inputs[1].name == "w1"
    assert sqnr_db(outputs(before, FEEDS[:3], 1), outputs(after, FEEDS[:3], 1)) > 110


def test_channels_that_are_alike_are_left_alone() -> None:
    assert factors(loaded(EVEN)) == {}


@pytest.mark.parametrize("given", [RESIDUAL, ALONE])
def test_dynamic_codes_lose_less_and_all_products_run_in_integers(given: onnx.ModelProto) -> None:
    plain, smooth = dynamic(given, weights=()), dynamic(given)
    assert plain.report.sqnr_db is not None and smooth.report.sqnr_db is not None
    assert smooth.report.sqnr_db > plain.report.sqnr_db + 8
    ran = kernels(smooth)
    assert {ran[name] for name in ran if name.startswith("mul")} <= {
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    }
    trials = smooth.report.trials
    assert [each.method for each in trials] == ["smoothing", "rounding"]
    assert trials[0].kept


def test_factors_that_bring_nothing_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dynamic(EVEN, weights=())

    def ones(*given: Any, **keywords: Any) -> dict[str, Any]:
        return {"x": np.ones(K)}

    monkeypatch.setattr(code_modes, "smoothing_factors", ones)
    result = dynamic(EVEN, weights=("smoothing",))
    assert [(each.method, each.kept) for each in result.report.trials] == [("smoothing", False)]
    assert "Mul" not in {node.op_type for node in result.model.graph if "smooth" in node.name}
    assert result.report.sqnr_db == pytest.approx(plain.report.sqnr_db)


def test_without_data_nothing_is_smoothed() -> None:
    result = quantize(ALONE, mode="dynamic", bench=False, threads=1)
    assert result.report.trials == ()
