"""`make new-rule` starts a rule that loads, with cases that hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import casefile
import new_rule
import pytest
import test_cases

from onnxopt import registry
from onnxopt.rewrite.engine import CompiledRule, compile_rule


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests" / "cases").mkdir(parents=True)
    return tmp_path


def _compiled(path: Path) -> CompiledRule:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return compile_rule(module.FuseTwoRelu())


def test_the_skeleton_is_green_before_it_is_filled_in(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert new_rule.main(["fuse_two_relu"], root) == 0
    compiled = _compiled(root / "rules" / "fuse_two_relu.py")
    assert compiled.name == "fuse_two_relu"
    monkeypatch.setattr(registry, "rules", lambda: {compiled.name: compiled})
    cases = casefile.read(root / "tests" / "cases" / "fuse_two_relu.txt")
    assert [case.verdict for case in cases] == ["becomes", "stays"]
    for case in cases:
        test_cases.test_case(case)


@pytest.mark.parametrize("name", ["", "silu", "fuse_", "fuse-silu", "FuseSilu", "../fuse_x"])
def test_a_name_that_can_not_be_a_rule_is_turned_down(root: Path, name: str) -> None:
    assert new_rule.main([name], root) == 2
    assert not list((root / "rules").iterdir())


def test_a_rule_that_is_there_is_not_written_over(root: Path) -> None:
    (root / "rules" / "fuse_silu.py").write_text("mine")
    assert new_rule.main(["fuse_silu"], root) == 2
    assert (root / "rules" / "fuse_silu.py").read_text() == "mine"
