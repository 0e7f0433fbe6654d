"""What `onnxopt distill` says without torch, and what it refuses before anything is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onnxopt.cli import main


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def test_without_torch_the_extra_is_named(
    no_torch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["distill", "teacher.onnx", "student.onnx", "--data", "d.npz"]) == 2
    told = capsys.readouterr().err
    assert "needs torch" in told and "pip install 'onnxopt[distill]'" in told


def test_help_needs_no_torch(no_torch: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["distill", "--help"]) == 0
    assert "--checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--match", "one"], "no pair of names"),
        (["--match", "auto", "--match", "a=b"], "stands alone"),
        (["--epochs", "3", "--minutes", "1"], "given twice"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_options_that_can_not_be_are_refused_first(
    no_torch: None, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["distill", "t.onnx", "s.onnx", "--data", "d.npz", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_report_of_an_unknown_kind_is_refused_first(
    no_torch: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "report.txt")
    assert main.run(["distill", "t.onnx", "s.onnx", "--data", "d.npz", "--report", path]) == 2
    assert "report" in capsys.readouterr().err
