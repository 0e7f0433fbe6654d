"""`onnxopt lint` end to end: what it prints, writes and returns."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_graphs import Drawing


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A convolution whose Relu sits behind a pair of its own, and whose codes can overflow."""
    monkeypatch.chdir(tmp_path)
    g = Drawing()
    codes = g.constant(g.random.integers(60, 128, (8, 8, 3, 3)).astype(np.int8))
    weight = g.dequantize(codes, 0.001, 0, np.int8)
    c = g.node("Conv", g.pair(g.input(1, 8, 6, 6)), weight)
    onnx.save(g.model(g.pair(g.node("Relu", g.pair(c)), zero=0)), "faulty.onnx")
    return Path("faulty.onnx")


@pytest.fixture
def linted(ran: Any) -> Any:
    """Runs `lint`; gives its exit code, standard output and standard error."""
    return functools.partial(ran, "lint")


def test_faults_are_listed_and_the_exit_code_says_so(faulty: Path, linted: Any) -> None:
    code, out, _ = linted(faulty)
    assert code == 1
    assert "misplaced-pair" in out and "saturation-risk" in out


def test_fix_writes_a_repaired_model_and_leaves_the_input(faulty: Path, linted: Any) -> None:
    before = faulty.read_bytes()
    code, out, _ = linted(faulty, "--fix", "-o", "fixed.onnx")
    assert code == 0
    assert "Repaired in fixed.onnx" in out
    assert faulty.read_bytes() == before
    assert linted("fixed.onnx")[:2] == (0, linted("fixed.onnx")[1])
    assert "No faults." in linted("fixed.onnx")[1]


def test_json_holds_faults_and_proof(faulty: Path, linted: Any) -> None:
    code, out, _ = linted(faulty, "--json")
    found = json.loads(out)
    assert code == 1
    assert {fault["kind"] for fault in found["faults"]} >= {"misplaced-pair", "saturation-risk"}
    assert [node["op_type"] for node in found["proof"]["nodes"]] == ["Conv", "Relu"]


@pytest.mark.parametrize("arguments", [["--fix"], ["-o", "x.onnx"]])
def test_fix_and_output_belong_together(faulty: Path, linted: Any, arguments: list[str]) -> None:
    code, _, error = linted(faulty, *arguments)
    assert code == 2
    assert "--fix and -o belong together" in error


def test_the_input_is_not_replaced_unasked(faulty: Path, linted: Any) -> None:
    assert linted(faulty, "--fix", "-o", faulty)[0] == 2
    assert linted(faulty, "--fix", "-o", faulty, "--overwrite")[0] == 0


def test_a_model_that_onnxruntime_refuses_is_linted_all_the_same(faulty: Path, linted: Any) -> None:
    model = onnx.load(faulty)
    model.graph.node[-1].input[1] = "nowhere"
    onnx.save(model, "broken.onnx")
    code, out, _ = linted("broken.onnx")
    assert code in (1, 2)
    assert "Traceback" not in out


def test_a_float_model_has_no_faults(tmp_path: Path, linted: Any) -> None:
    g = Drawing()
    onnx.save(g.model(g.node("Relu", g.input(1, 4))), tmp_path / "float.onnx")
    code, out, _ = linted(tmp_path / "float.onnx")
    assert (code, "No faults." in out) == (0, True)
