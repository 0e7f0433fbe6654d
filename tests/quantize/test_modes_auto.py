"""`auto` tries what fits a model, likeliest first, and says what it left out."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest
from mode_models import K, N, model, normal
from onnx import helper

from onnxopt import api_modes, io
from onnxopt.api_quantize import quantize
from onnxopt.errors import BadInput
from onnxopt.quantize.auto import fitting
from onnxopt.quantize.draft import name_all


def encoder() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "mul"),
        helper.make_node("Tanh", ["m"], ["y"], "tanh"),
    ]
    return model(nodes, {"w": normal(K, N)})


def pictures(*, head: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r" if head else "y"], "relu"),
    ]
    weights = {"w": normal(64, 64, 3, 3)}
    if head:
        nodes += [
            helper.make_node("ReduceMax", ["r"], ["g"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["g", "v"], ["y"], "head"),
        ]
        weights["v"] = normal(64, 80)
    return model(nodes, weights, inputs={"x": (1, ["batch", 64, 6, 6])})


def fits(given: onnx.ModelProto, *, has_data: bool) -> list[tuple[str, bool]]:
    named: ir.Model = io.load(given)
    name_all(named)
    return [(fit.mode, not fit.refusal) for fit in fitting(named, has_data=has_data)]


def test_products_are_tried_as_they_run_first_and_convolutions_with_ranges() -> None:
    assert fits(encoder(), has_data=True) == [("dynamic", True), ("static", True)]
    assert fits(encoder(), has_data=False) == [("dynamic", True), ("static", False)]
    assert fits(pictures(head=True), has_data=True) == [("static", True), ("dynamic", False)]


def test_it_keeps_the_fastest_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    real = api_modes._attempt

    def spy(prepared: Any, request: Any, name: str) -> api_modes.Attempt:
        tried.append(name)
        return real(prepared, request, name)

    monkeypatch.setattr(api_modes, "_attempt", spy)
    asked: dict[str, Any] = {"metric": "sqnr", "max_drop": 0.5, "bench": False, "threads": 1}
    found = quantize(encoder(), mode="auto", data={"x": normal(20, K)}, **asked)
    assert (found.report.mode, found.report.verdict, tried) == ("dynamic", "int8", ["dynamic"])
    assert any("left out static: dynamic pays already" in note for note in found.report.notes)
    assert any("weights, fp16 and bf16" in note for note in found.report.notes)


def test_what_does_not_hold_makes_room_for_the_next() -> None:
    asked: dict[str, Any] = {"metric": "sqnr", "max_drop": 1e-9, "bench": False, "threads": 1}
    found = quantize(encoder(), mode="auto", data={"x": normal(20, K)}, **asked)
    assert [note.split(":")[0] for note in found.report.notes if note.startswith("auto tried")] == [
        "auto tried dynamic",
        "auto tried static",
    ]
    assert "MatMulInteger" not in {node.op_type for node in found.model.graph}


def test_convolutions_without_data_leave_nothing_to_try() -> None:
    with pytest.raises(BadInput, match=r"auto found nothing to try.*samples of real inputs"):
        quantize(pictures(), mode="auto", bench=False)


def test_auto_is_for_cpus() -> None:
    with pytest.raises(BadInput, match="does not run on the target"):
        quantize(encoder(), mode="auto", target="qnn")
