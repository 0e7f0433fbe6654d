"""Distillation behind pruning: who learns what, and both from the command line to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxopt
from onnxopt import api_distill
from onnxopt.check import images
from onnxopt.cli import main
from onnxopt.runtime.sessions import Session
from tests.distill.models import model

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_mlp.onnx"
DIGITS = np.load(Path(__file__).with_name("digits.npz"))
SCORES = "probabilities"


def _digits(count: int) -> tuple[str, Any]:
    """The name of the model's input, and so many samples for it."""
    return "X", DIGITS["unlabelled"].astype(np.float32)[:count]


def test_distillation_behind_pruning_sees_no_sample_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, rows = _digits(50)
    seen: list[Any] = []
    real = api_distill.distill

    def distill(*args: Any, data: Any, **options: Any) -> Any:
        data = list(data)
        seen.extend(data)
        return real(*args, data=data, steps=2, batch=8, **options)

    monkeypatch.setattr(api_distill, "distill", distill)
    onnxopt.prune(
        MODEL, data={name: rows}, macs=0.8, rounding=1, recover="distill", bench=False, threads=1
    )
    learned = np.concatenate([feed[name] for feed in seen])
    apart = rows[4::5]
    assert len(learned) == len(rows) - len(apart)
    assert not any((learned == row).all(axis=1).any() for row in apart)


def test_the_runs_that_pruning_keeps_apart_choose_the_best_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    real = api_distill.distill

    def distill(*args: Any, held: Any, **options: Any) -> Any:
        given.extend(held)
        return real(*args, held=held, steps=2, batch=8, **options)

    monkeypatch.setattr(api_distill, "distill", distill)
    name, rows = _digits(50)
    report = onnxopt.prune(
        MODEL, data={name: rows}, macs=0.8, rounding=1, recover="distill", bench=False, threads=1
    ).report
    np.testing.assert_array_equal(np.concatenate([feed[name] for feed in given]), rows[4::5])
    assert any("2 steps of distillation on 40 samples" in note for note in report.notes)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    name, rows = _digits(120)
    np.savez(tmp_path / "data.npz", **{name: rows})
    return {each: str(tmp_path / each) for each in ("data.npz", "out.onnx", "report.json")}


def _pruned(files: dict[str, str], *more: str) -> Any:
    arguments = [
        "prune", str(MODEL), "--data", files["data.npz"], "--macs", "0.5", "--no-bench",
        "--threads", "1", "--report", files["report.json"], "-o", files["out.onnx"], "-q", *more,
    ]  # fmt: skip
    assert main.run(arguments) == 0
    return json.loads(Path(files["report.json"]).read_text())


def _agreement(path: str) -> float:
    """The share of other digits that a model classes as the one it was made from."""
    rows = DIGITS["held"].astype(np.float32)
    answers = [
        np.asarray(Session.open(str(each), optimize=True, threads=1).run({"X": rows}, [SCORES])[0])
        for each in (MODEL, path)
    ]
    return float((answers[0].argmax(1) == answers[1].argmax(1)).mean())


def test_pruning_and_distillation_from_the_command_line_win_answers_back(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxopt.distill.schedule.MOST_EPOCHS", 60)
    report = _pruned(files, "--score", "random", "--recover", "none")
    bare = _agreement(files["out.onnx"])
    report = _pruned(files, "--score", "random", "--recover", "distill", "--overwrite")
    assert report["recover"] == "distill"
    assert any("steps of distillation on 96 samples" in note for note in report["notes"])
    assert _agreement(files["out.onnx"]) > max(bare, 0.85)


def test_channels_are_ranked_by_the_slope_of_the_loss_from_the_command_line(
    files: dict[str, str],
) -> None:
    report = _pruned(files, "--score", "taylor")
    assert report["score_name"] == "taylor"
    assert _agreement(files["out.onnx"]) > 0.85


def test_photos_of_a_folder_stay_photos_behind_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image.fromarray(pixels).resize((24, 20)).save(tmp_path / f"{number:02}.png")
    net = model(
        "g (float[N,3,16,16] x) => (float[N,4] y) { c = Conv<strides = [2, 2]>(x, k, b)"
        " r = Relu(c) d = Conv(r, l, e) p = GlobalAveragePool(d) f = Flatten(p)"
        " y = Gemm(f, w, v) }",
        {
            "k": random.normal(size=(16, 3, 3, 3)).astype(np.float32),
            "b": np.zeros(16, np.float32),
            "l": random.normal(size=(8, 16, 1, 1)).astype(np.float32),
            "e": np.zeros(8, np.float32),
            "w": random.normal(size=(8, 4)).astype(np.float32),
            "v": np.zeros(4, np.float32),
        },
    )
    cut: list[int] = []
    real = images.Images.part
    monkeypatch.setattr(images.Images, "part", lambda *args: cut.append(args[1]) or real(*args))
    monkeypatch.setattr("onnxopt.distill.schedule.MOST_EPOCHS", 5)
    onnxopt.prune(
        net, data=tmp_path, preprocess="unit", macs=0.7, rounding=2, recover="distill",
        bench=False, threads=1,
    )  # fmt: skip
    assert sorted(set(cut)) == list(range(16)) and len(cut) == 5 * 16
