"""`onnxopt distill` from the command line to the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import io
from onnxopt.cli import main
from tests.distill.models import classifier, rows


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    io.save(classifier(16, seed=0), tmp_path / "teacher.onnx")
    io.save(classifier(6, seed=1), tmp_path / "student.onnx")
    np.savez(tmp_path / "data.npz", **rows())
    return {
        name: str(tmp_path / name)
        for name in ("teacher.onnx", "student.onnx", "data.npz", "out.onnx", "state", "report.json")
    }


def _arguments(files: dict[str, str], *more: str) -> list[str]:
    return [
        "distill", files["teacher.onnx"], files["student.onnx"], "--data", files["data.npz"],
        "--batch", "16", "--lr", "1e-2", "-o", files["out.onnx"], *more,
    ]  # fmt: skip


def test_a_student_is_taught_and_written(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(_arguments(files, "--epochs", "20", "--report", files["report.json"])) == 0
    told = capsys.readouterr()
    assert "The loss on held samples fell from" in told.out and told.err == ""
    report = json.loads(Path(files["report.json"]).read_text())
    assert report["best"]["held"] < report["curve"][0]["held"]
    assert [point["step"] for point in report["curve"]] == sorted(
        point["step"] for point in report["curve"]
    )
    student, written = (io.to_proto(io.load(files[name])) for name in ("student.onnx", "out.onnx"))
    assert [t.name for t in student.graph.initializer] == [
        t.name for t in written.graph.initializer
    ]
    assert student != written


def test_a_matched_inner_value_is_told(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    io.save(classifier(16, seed=1), files["student.onnx"])
    assert main.run(_arguments(files, "--epochs", "1", "--match", "r=r", "-v")) == 0
    assert "mse" in capsys.readouterr().out


def test_bad_input_is_one_clear_error(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    io.save(classifier(6, seed=1, classes=4), files["student.onnx"])
    assert main.run(_arguments(files, "--epochs", "1")) == 2
    assert "the same classes" in capsys.readouterr().err
    assert not Path(files["out.onnx"]).exists()


def _started(path: str, process: subprocess.Popen[Any]) -> bool:
    """Wait until the training has written its first checkpoint."""
    for _ in range(1200):
        if Path(path).exists():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def test_an_interrupt_writes_the_best_weights_and_says_how_to_go_on(files: dict[str, str]) -> None:
    long = _arguments(files, "--steps", "20000", "--checkpoint", files["state"])
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxopt", *long],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert _started(files["state"], process), process.communicate()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "the best weights so far are in" in told and "--resume goes on from" in told
    io.load(files["out.onnx"])
