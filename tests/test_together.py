"""Pruning, teaching and quantizing in one go: one budget, and every step can be rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxopt
from onnxopt import api_compress, api_distill, api_prune, api_quantize, api_steps
from onnxopt.bench.race import Race
from onnxopt.cli.main import run
from onnxopt.distill import door
from onnxopt.errors import BadInput, ParityFailed

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits_mlp.onnx"
ALONE = {"bench": False, "threads": 1, "max_drop": 0.2}
Data = dict[str, Any]


@pytest.fixture
def data() -> Data:
    return {"X": np.random.default_rng(0).integers(0, 17, (30, 64)).astype(np.float32)}


def _spoiled(model: ir.Model) -> ir.Model:
    """The same model with nothing but zeros for weights: every row is of the same class."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        array = value.const_value
        if array is not None and array.dtype == ir.DataType.FLOAT and len(array.shape) == 2:
            value.const_value = ir.tensor(np.zeros(array.shape, np.float32), name=value.name)
    return copy


def _plant(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[ir.Model], ir.Model], seen: list[Any]
) -> None:
    """Let pruning end with what `change` makes of its model."""
    honest = api_prune.prune

    def planted(model: Any, **asked: Any) -> Any:
        seen.append(asked)
        result = honest(model, **asked)
        return replace(result, model=change(result.model))

    monkeypatch.setattr(api_steps.api_prune, "prune", planted)


def _spy(monkeypatch: pytest.MonkeyPatch, seen: list[Any]) -> None:
    honest = api_quantize.quantize

    def watched(model: Any, **asked: Any) -> Any:
        seen.append({"model": model, **asked})
        return honest(model, **asked)

    monkeypatch.setattr(api_steps.api_quantize, "quantize", watched)


def _teacher(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> list[Any]:
    """A distillation that gives what `change` makes of teacher and student; torch is not needed."""
    seen: list[Any] = []

    def distill(teacher: Any, student: Any, **asked: Any) -> Any:
        seen.append(asked)
        return api_distill.DistillResult(change(teacher, student), None)  # type: ignore[arg-type]

    monkeypatch.setattr(api_distill, "distill", distill)
    monkeypatch.setattr(door, "require_torch", lambda: None)
    return seen


def _decisions(result: onnxopt.CompressResult) -> dict[str, bool]:
    return {each.step: each.kept for each in result.report.decisions}


def _macs(result: onnxopt.CompressResult) -> list[int | None]:
    return [stage.macs for stage in result.report.stages]


def test_both_steps_are_kept_and_every_stage_is_told(data: Data, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    result = onnxopt.compress(MODEL, data=data, prune=0.8, quantize=True, output=path, **ALONE)
    assert _decisions(result) == {"prune": True, "quantize": True}
    names = [stage.name for stage in result.report.stages]
    assert names == ["original", "optimized", "pruned", "quantized"]
    macs = _macs(result)
    assert macs[2] is not None and macs[1] is not None and macs[2] <= 0.8 * macs[1]
    assert all(stage.score is not None and stage.bytes for stage in result.report.stages)
    before, after = onnx.load(MODEL), onnx.load(path)
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    assert "QuantizeLinear" in {node.op_type for node in after.graph.node}


def test_stages_are_timed_in_turns(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxopt.bench import trial

    monkeypatch.setattr(trial, "MAX_ROUNDS", 4)
    monkeypatch.setattr(api_steps.Run, "_slower", lambda self, candidate: "")
    result = onnxopt.compress(MODEL, data=data, prune=0.8, threads=1, max_drop=0.2)
    assert all(stage.milliseconds for stage in result.report.stages)


def test_samples_kept_apart_serve_no_step(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[Any] = []
    quantized: list[Any] = []
    _plant(monkeypatch, lambda model: model, pruned)
    _spy(monkeypatch, quantized)
    taught = _teacher(monkeypatch, lambda teacher, student: student)
    onnxopt.compress(MODEL, data=data, prune=0.8, distill=True, quantize=True, **ALONE)
    split = pruned[0]["data"]
    assert quantized[0]["data"] is split
    assert taught[0]["data"] is split.calibration
    held = {feed["X"].tobytes() for feed in split.held}
    assert len(held) == 6
    assert not held & {feed["X"].tobytes() for feed in split.calibration}


def test_what_the_user_did_not_want_no_step_does(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    _spy(monkeypatch, seen)
    first = {"disable": ["drop_identity"]}
    result = onnxopt.compress(MODEL, data=data, quantize=True, optimize=first, **ALONE)
    assert "Identity" in {node.op_type for node in seen[0]["model"].graph}
    assert "Identity" in {node.op_type for node in result.model.graph}


def test_quantization_has_what_pruning_left_of_the_budget(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    _spy(monkeypatch, seen)
    asked = ALONE | {"max_drop": 0.9}
    result = onnxopt.compress(MODEL, data=data, prune=0.4, quantize=True, metric="sqnr", **asked)
    lost = result.report.decisions[0].score
    assert lost is not None and lost.drop > 0
    assert seen[0]["max_drop"] == pytest.approx(0.9 - lost.drop)


def test_pruning_that_loses_too_much_is_rolled_back_and_the_rest_goes_on(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, _spoiled, [])
    result = onnxopt.compress(MODEL, data=data, prune=0.8, quantize=True, **ALONE)
    assert _decisions(result) == {"prune": False, "quantize": True}
    assert "0.2 is allowed" in result.report.decisions[0].reason
    assert result.report.passed
    assert [stage.name for stage in result.report.stages][2] == "pruned (rolled back)"
    assert _macs(result)[-1] == _macs(result)[1]


def test_pruning_that_is_no_faster_is_rolled_back(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_steps, "race", lambda *a, **k: Race(0.97, False, None))  # type: ignore[arg-type]
    monkeypatch.setattr(api_steps.Run, "timing", lambda self, original: None)
    result = onnxopt.compress(MODEL, data=data, prune=0.8, threads=1, max_drop=0.2)
    assert _decisions(result) == {"prune": False}
    assert "0.97x" in result.report.decisions[0].reason
    assert result.report.passed, "it holds the budget: what does not pay is no broken promise"


def test_pruning_whose_proof_fails_is_rolled_back(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **asked: Any) -> Any:
        raise ParityFailed("the output 'label' is not that of the original")

    monkeypatch.setattr(api_steps.api_prune, "prune", broken)
    result = onnxopt.compress(MODEL, data=data, prune=0.8, quantize=True, **ALONE)
    assert _decisions(result) == {"prune": False, "quantize": True}
    assert "'label'" in result.report.decisions[0].reason


def test_quantization_that_loses_too_much_is_rolled_back_to_the_pruned_model(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = api_quantize.quantize

    def planted(model: Any, **asked: Any) -> Any:
        result = honest(model, **asked)
        return replace(result, model=_spoiled(model))

    monkeypatch.setattr(api_steps.api_quantize, "quantize", planted)
    result = onnxopt.compress(MODEL, data=data, prune=0.8, quantize=True, **ALONE)
    assert _decisions(result) == {"prune": True, "quantize": False}
    assert result.report.passed
    assert result.report.score == result.report.decisions[0].score
    assert "DequantizeLinear" not in {node.op_type for node in result.model.graph}


def test_what_pruning_lost_is_won_back_by_teaching(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[ir.Model] = []
    _plant(monkeypatch, lambda model: (whole.append(model), _spoiled(model))[1], [])
    _teacher(monkeypatch, lambda teacher, student: whole[0])
    result = onnxopt.compress(MODEL, data=data, prune=0.8, distill=True, **ALONE)
    assert _decisions(result) == {"prune": True, "distill": True}
    assert "won back by teaching" in result.report.decisions[0].reason
    assert result.model is whole[0]


def test_teaching_that_makes_it_worse_is_rolled_back(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    _teacher(monkeypatch, lambda teacher, student: _spoiled(student))
    result = onnxopt.compress(MODEL, data=data, prune=0.8, distill=True, **ALONE)
    assert _decisions(result) == {"prune": True, "distill": False}
    assert "no less than before" in result.report.decisions[1].reason


def test_teaching_that_does_not_help_enough_rolls_both_back(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, _spoiled, [])
    _teacher(monkeypatch, lambda teacher, student: student)
    result = onnxopt.compress(MODEL, data=data, prune=0.8, distill=True, **ALONE)
    assert _decisions(result) == {"prune": False, "distill": False}
    assert not result.report.passed


def test_where_the_budget_leaves_nothing_nothing_is_written(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, _spoiled, [])
    path = tmp_path / "small.onnx"
    result = onnxopt.compress(MODEL, data=data, prune=0.8, output=path, **ALONE)
    assert not result.report.passed
    assert not path.exists()


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({}, "no step"),
        ({"prune": 0.8, "distill": {"epoch": 3}}, "'epoch'"),
        ({"prune": {"mac": 0.8}}, "'mac'"),
        ({"prune": True}, "prune=True"),
        ({"prune": {"macs": 0.8, "recover": "distill"}}, "step of its own"),
        ({"distill": True, "quantize": True}, "nothing to teach"),
        ({"prune": 0.8, "max_drop": -1}, "-1"),
        ({"prune": 0.8, "data": None}, "no.*data|there is none"),
        ({"prune": 0.8, "data": "random"}, "noise"),
        ({"prune": 1.5}, "1.5"),
        ({"prune": 0.8, "metric": "top1"}, "labels"),
    ],
)
def test_what_makes_no_sense_is_refused(data: Data, asked: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        onnxopt.compress(MODEL, **({"data": data} | asked))


def test_every_keyword_of_a_step_is_one_of_its_function() -> None:
    import inspect

    for names, function in (
        (api_compress.PRUNE, api_prune.prune),
        (api_compress.DISTILL, api_distill.distill),
        (api_compress.QUANTIZE, api_quantize.quantize),
    ):
        assert set(names) <= set(inspect.signature(function).parameters)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Data) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **data)
    return tmp_path


def _command(*more: str) -> int:
    asked = ["--data", "data.npz", "--threads", "1", "--no-bench", "--max-drop", "20%", *more]
    return run(["optimize", str(MODEL), *asked])


def test_the_command_writes_the_model_and_one_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--prune", "0.8", "--quantize", "-o", "out.onnx", "--json", "--report", "r.html"]
    assert _command(*asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["kept"] for each in report["decisions"]] == [True, True]
    assert report["pruning"]["groups"] and report["quantization"]["layers"]
    page = Path("r.html").read_text(encoding="utf-8")
    assert "Pruning: What was removed" in page and "Quantization: Layers" in page
    assert Path("out.onnx").exists()


def test_the_command_says_what_was_rolled_back(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, _spoiled, [])
    assert _command("--prune", "macs=80%", "-o", "out.onnx") == 1
    told = capsys.readouterr()
    assert "rolled back" in told.out and "every step was rolled back" in told.out
    assert "nothing was written" in told.err
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["--prune", "bytes=0.5"], "[TARGET=]SHARE"),
        (["--prune", "much"], "[TARGET=]SHARE"),
        (["--prune", "0.8", "--mode", "dynamic"], "none is asked for"),
        (["--prune", "0.8", "--quantize", "--plan", "p.json"], "one by one"),
        (["--distill", "3", "--quantize"], "nothing to teach"),
        (["--prune", "0.001", "-o", "out.onnx"], "reach"),
    ],
)
def test_the_command_refuses(
    here: Path, capsys: pytest.CaptureFixture[str], asked: list[str], word: str
) -> None:
    assert _command(*asked) == 2
    assert word in capsys.readouterr().err
    assert not Path("out.onnx").exists()


def test_the_command_names_the_extra_that_teaching_needs(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    assert _command("--prune", "0.8", "--distill", "3") == 2
    assert "onnxopt[distill]" in capsys.readouterr().err
