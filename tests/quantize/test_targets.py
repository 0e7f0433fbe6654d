"""What each target gets: codes of activations, biases, and where the pairs stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt import registry
from onnxopt.api_quantize import quantize
from onnxopt.passes import shapes
from onnxopt.quantize.insert import insert
from onnxopt.quantize.plan import make_plan
from onnxopt.quantize.records import QuantPlan, Range
from onnxopt.quantize.targets import TARGETS

RANDOM = np.random.default_rng(3)


def weight(name: str, *shape: int) -> str:
    numbers = ",".join(f"{n:.4f}" for n in RANDOM.standard_normal(int(np.prod(shape))) * 0.3)
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


BLOCK = f"""
g (float[1,8,6,6] x) => (float[1,8,6,6] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)},
  {weight("b2", 8)}, {weight("w3", 8, 8, 1, 1)}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] c = Conv(b, w2, b2)
   [sum] d = Add(c, x) [r2] e = Relu(d) [c3] y = Conv(e, w3) }}"""


def made(target: str, opset: int = 21) -> tuple[ir.Model, QuantPlan]:
    proto = parse(BLOCK)
    proto.opset_import[0].version = opset
    model = ir.from_proto(proto)
    shapes.infer(model)
    specs = registry.quant_specs()
    ranges = {name: Range(-2.0, 3.0) for name in "xacdy"} | {n: Range(0.0, 3.0) for n in "be"}
    plan = make_plan(model, ranges, specs, target=target)
    insert(model, plan, specs)
    shapes.restore(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model, plan


def operators(model: ir.Model, name: str) -> list[str]:
    """What the operands of a node come from."""
    node = next(each for each in model.graph if each.name == name)
    makers = [None if value is None else value.producer() for value in node.inputs]
    return ["" if maker is None else maker.op_type for maker in makers]


@pytest.mark.parametrize(
    ("target", "dtypes"),
    [
        ("cpu", {"uint8"}),
        ("generic", {"uint8"}),
        ("qnn", {"uint8"}),
        ("qnn16", {"uint16"}),
        ("openvino", {"int8"}),
        ("tensorrt", {"int8"}),
    ],
)
def test_activations_have_the_codes_that_the_target_wants(target: str, dtypes: set[str]) -> None:
    _, plan = made(target)
    assert {grid.dtype for grid in plan.grids.values()} == dtypes
    if "int8" in dtypes:
        assert {grid.zero_point for grid in plan.grids.values()} == {0}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_biases_are_int32_but_for_tensorrt(target: str) -> None:
    model, _ = made(target)
    bias = "" if target == "tensorrt" else "DequantizeLinear"
    assert operators(model, "c1") == ["DequantizeLinear", "DequantizeLinear", bias]


def test_tensorrt_gets_a_pair_on_the_shortcut_of_a_sum_only() -> None:
    model, plan = made("tensorrt")
    assert operators(model, "sum") == ["Conv", "DequantizeLinear"]
    assert sorted(plan.grids) == ["b", "e", "x"]


@pytest.mark.parametrize("target", ["cpu", "openvino", "qnn", "generic"])
def test_others_get_a_pair_on_both_sides_of_a_sum(target: str) -> None:
    model, _ = made(target)
    assert operators(model, "sum") == ["DequantizeLinear"] * 2


def test_codes_of_16_bits_are_of_another_domain_before_opset_21() -> None:
    domains = {opset: {n.domain for n in made("qnn16", opset)[0].graph if "Quant" in n.op_type}
               for opset in (13, 21)}  # fmt: skip
    assert domains == {13: {"com.microsoft"}, 21: {""}}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_keeps_the_numbers(target: str) -> None:
    data = {"x": np.random.default_rng(1).standard_normal((20, 8, 6, 6)).astype(np.float32)}
    result = quantize(
        parse(BLOCK.replace("[1,8,6,6]", "[N,8,6,6]")), data=data, target=target,
        metric="sqnr", bench=False, threads=1,
    )  # fmt: skip
    assert result.report.verdict == "int8"
    assert result.report.sqnr_db is not None and result.report.sqnr_db > 25


def test_another_target_is_neither_timed_nor_proved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def race(*models: Any, **keywords: Any) -> Any:
        raise AssertionError("a race on the wrong machine")

    monkeypatch.setattr("onnxopt.api_modes.race_models", race)
    data = {"x": np.random.default_rng(1).standard_normal((20, 8, 6, 6)).astype(np.float32)}
    result = quantize(
        parse(BLOCK.replace("[1,8,6,6]", "[N,8,6,6]")), data=data, target="tensorrt",
        metric="sqnr", threads=1,
    )  # fmt: skip
    assert result.report.verdict == "int8"
    assert "the target is not here" in result.report.reason
