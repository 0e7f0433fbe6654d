"""The wheel, built through the source distribution, holds every module and rule, and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("onnxopt", "rules", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("build", reason="the dev extra brings it")
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    left_over = source / "build" / "lib" / "onnxopt_rules" / "fuse_deleted.py"
    left_over.parent.mkdir(parents=True)
    left_over.write_text("")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((source / "dist").glob("*.whl")))


def test_it_holds_every_module_and_rule_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "onnxopt").rglob("*.py")}
    rules = {f"onnxopt_rules/{path.name}" for path in (ROOT / "rules").glob("*.py")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == modules | rules | {"onnxopt/py.typed"}


def test_it_says_where_the_command_and_the_rules_are(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    lines = wheel.read(name).decode().splitlines()
    assert "onnxopt = onnxopt.cli.main:main" in lines
    assert "builtin = onnxopt_rules" in lines


def test_it_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
