"""What the README prints works as printed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import onnxopt
from onnxopt.bench import trial
from onnxopt.cli.main import COMMANDS, Commands, cli, run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TORCH = importlib.util.find_spec("torch") is not None
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models, one of them as model.onnx, and data; timing is cut short."""
    monkeypatch.setattr(trial, "MAX_ROUNDS", 4)
    shutil.copytree(ROOT / "models", tmp_path / "models")
    shutil.copy(ROOT / "models" / "digits_mlp.onnx", tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", X=random.integers(0, 17, (30, 64)).astype(np.float32))
    (tmp_path / "photos").mkdir()
    for number in range(5):
        pixels = random.integers(0, 256, 32 * 32 * 3, dtype=np.uint8).tobytes()
        (tmp_path / "photos" / f"{number}.ppm").write_bytes(b"P6 32 32 255\n" + pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAINS = re.compile(r"^onnxopt distill | --distill ")


def _commands() -> list[str]:
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    return [line for line in lines if line.startswith("onnxopt ")]


def test_every_command_is_shown() -> None:
    assert {shlex.split(line)[1] for line in _commands()} >= set(COMMANDS)


def test_the_commands_work_one_after_another(folder: Path) -> None:
    for line in _commands():
        words = shlex.split(line, comments=True)[1:]
        # Without torch it says what to install.
        assert run(words) == (2 if words[0] == "distill" and not TORCH else 0), line


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_the_commands_that_train_work_among_the_others(folder: Path) -> None:
    for line in _commands():
        assert run(shlex.split(line, comments=True)[1:]) == 0, line


@pytest.mark.parametrize("code", [text for language, text in BLOCKS if language == "python"])
def test_the_python_works(folder: Path, code: str) -> None:
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, onnxopt.Result | onnxopt.QuantizeResult | onnxopt.CompressResult)
    assert result.report.passed


def test_every_make_target_is_there() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= set(TARGETS)


def test_every_option_is_there() -> None:
    assert isinstance(cli, Commands)
    context = cli.make_context("onnxopt", ["rules"], resilient_parsing=True)
    commands = [cli.get_command(context, name) for name in COMMANDS]
    known = {name for each in commands if each for option in each.params for name in option.opts}
    named = set(re.findall(r"`(--[a-z-]+)", README)) | set(re.findall(r", `(--[a-z-]+)", README))
    assert named
    assert named <= known


def test_every_path_is_there() -> None:
    layout = next(text for _, text in BLOCKS if "onnxopt/api.py" in text)
    links = re.findall(r"\]\(([^)]+)\)", README)
    for path in [line.split()[0] for line in layout.splitlines()] + links:
        assert (ROOT / path).exists(), path
