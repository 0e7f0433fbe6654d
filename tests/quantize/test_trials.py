"""Weight methods that do harm are taken back; what decides is apart from what confirms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from casefile import parse
from mode_models import K, N, model, normal
from onnx import helper

from onnxopt import io
from onnxopt.api_quantize import quantize
from onnxopt.quantize import code_modes, samples, workshop
from onnxopt.quantize.row_codes import RowCodes
from onnxopt.quantize.trials import Noise, judged
from onnxopt.report.quantization_page import quantization_page

RANDOM = np.random.default_rng(0)


def weight(name: str, *shape: int) -> str:
    numbers = RANDOM.standard_normal(int(np.prod(shape))) * 0.3
    return (
        f"float[{','.join(map(str, shape))}] {name} = {{{','.join(f'{n:.4f}' for n in numbers)}}}"
    )


NET = f"""
g (float[N,8,6,6] x) => (float[N,8,6,6] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)}, {weight("b2", 8)}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] y = Conv(b, w2, b2) }}"""
ASKED: dict[str, Any] = {"metric": "sqnr", "max_drop": 1, "bench": False, "threads": 1}


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return parse(NET)


def data(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((count, 8, 6, 6)).astype(np.float32)}


def test_methods_that_help_are_kept_and_told(net: onnx.ModelProto) -> None:
    trials = quantize(net, data=data(40), **ASKED).report.trials
    assert [each.method for each in trials] == ["bias", "rounding"]
    assert all(each.kept for each in trials)
    assert trials[-1].after_db > trials[0].before_db + 0.2


def test_biases_that_ruin_the_outputs_are_taken_back(
    net: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workshop.correct_biases

    def shifted(*given: Any, **keywords: Any) -> dict[str, Any]:
        return {name: bias + 0.5 for name, bias in honest(*given, **keywords).items()}

    without = quantize(net, data=data(40), weights=("saturation", "rounding"), **ASKED)
    monkeypatch.setattr(workshop, "correct_biases", shifted)
    result = quantize(net, data=data(40), **ASKED)
    kept = {each.method: each.kept for each in result.report.trials}
    assert kept == {"bias": False, "rounding": True}
    assert result.report.sqnr_db == pytest.approx(without.report.sqnr_db)
    text = str(quantization_page(result.report))
    assert "taken back: the outputs got worse" in text


def test_codes_that_ruin_the_outputs_are_taken_back_in_dynamic_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = model([helper.make_node("MatMul", ["x", "w"], ["y"], "mul")], {"w": normal(K, N)})
    feeds = [{"x": normal(4, K)} for _ in range(20)]
    asked: dict[str, Any] = {"mode": "dynamic", "data": feeds, **ASKED}
    plain = quantize(given, weights=(), **asked)
    assert plain.report.trials == ()

    def wrong(*given: Any, **keywords: Any) -> Any:
        for name, found in honest(*given, **keywords):
            yield name, RowCodes(np.zeros_like(found.codes), found.scale)

    honest = code_modes.compensated
    monkeypatch.setattr(code_modes, "compensated", wrong)
    result = quantize(given, **asked)
    assert ("rounding", False) in [(each.method, each.kept) for each in result.report.trials]
    assert result.report.sqnr_db == pytest.approx(plain.report.sqnr_db)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ([1, 1, 1, 1], [2, 2, 2, 2], False),
        ([1, 1, 1, 1], [1, 1, 1, 1], True),
        ([1, 1, 1, 1], [1.01, 1.01, 1.01, 1.01], True),  # a trifle
        ([1, 1, 1, 1], [0.5, 0.5, 0.5, 6], True),  # one sample of four may be chance
        ([1, 1, 1, 1], [0.5, 0.5, 0.5, 9], False),  # but not where it is ruined
        ([1], [1.1], True),  # one sample tells little
        ([1], [1.5], False),
        ([0, 0, 0, 0], [1, 1, 1, 1], False),
        ([1, 1, 1, 1], [np.inf, 1, 1, 1], False),
        ([1, 1, 1, 1], [np.nan, 1, 1, 1], False),
        ([np.nan, 1, 1, 1], [1, 1, 1, 1], True),
    ],
)
def test_only_a_loss_beyond_chance_counts(before: Any, after: Any, kept: bool) -> None:
    trial = judged("m", Noise(np.array(before, float)), Noise(np.array(after, float)))
    assert trial.kept is kept


def test_noise_is_that_of_all_outputs_over_the_signal() -> None:
    wanted = [{"y": np.array([3.0, 4.0]), "n": np.array([1])}, {"y": np.zeros(2)}]
    given = [{"y": np.array([3.0, 4.5]), "n": np.array([7])}, {"y": np.zeros(2)}]
    noise = Noise.of(wanted, given)
    np.testing.assert_allclose(noise.samples, [0.01, 0])
    assert noise.decibels == pytest.approx(20)


def test_what_confirms_is_neither_calibrated_nor_decided_on(net: onnx.ModelProto) -> None:
    images = data(200)["x"]
    split = samples.split({"x": images}, io.load(net), labels=np.arange(200), confirm=True)
    parts = [[feed["x"].tobytes() for feed in part] for part in
             (split.calibration, split.held, split.unseen)]  # fmt: skip
    assert [len(part) for part in parts] == [140, 40, 20]
    assert len(set().union(*parts)) == 200
    assert split.unseen_labels is not None and split.labels is not None
    assert split.unseen_labels[:3].tolist() == [2, 12, 22]
    np.testing.assert_array_equal(split.unseen[1]["x"], images[12:13])
    assert "decided nothing" in split.note


def test_few_runs_are_not_kept_to_confirm_and_the_report_says_so(net: onnx.ModelProto) -> None:
    few = quantize(net, data=data(50), **ASKED).report
    assert few.unseen is None
    assert any("the score may flatter" in note for note in few.notes)
    many = quantize(net, data=data(200), **ASKED).report
    assert many.unseen is not None and many.unseen.samples == 20
    assert many.unseen.candidate == pytest.approx(many.score.candidate, abs=1.0)
    assert many.unseen.candidate != many.score.candidate
    assert "on samples that decided nothing" in str(quantization_page(many))


def test_what_methods_leave_out_is_said_with_what_would_change_it() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["m"], "bare"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["p"], "mul"),
        helper.make_node("Add", ["p", "b"], ["y"], "add"),
    ]
    weights = {"g": np.ones(K, np.float32), "w": normal(K, N), "v": normal(N, K), "b": normal(K)}
    feeds = [{"x": normal(4, K) * 10} for _ in range(20)]
    notes = quantize(model(nodes, weights), data=feeds, **ASKED).report.notes
    assert any("bias correction leaves out 1 product (bare" in note for note in notes)
    assert any("--mode dynamic smooths that" in note for note in notes)
    less = quantize(model(nodes, weights), data=feeds, weights=("rounding",), **ASKED).report.notes
    assert not any("bias correction" in note or "smooths" in note for note in less)
