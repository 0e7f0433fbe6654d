"""Each command end to end on real models, in this process: what it prints, writes and returns."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import report_samples
from casefile import parse

from onnxopt import api

MODELS = Path(__file__).resolve().parents[2] / "models"
FAST = ("--no-check", "--no-bench")


@pytest.fixture
def mlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small real model, alone in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(MODELS / "digits_mlp.onnx", tmp_path / "mlp.onnx"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_optimize_writes_a_model_and_says_what_it_did(mlp: Path, ran: Any) -> None:
    before = _digest(mlp)
    code, out, err = ran("optimize", mlp, "-o", "out.onnx", "--no-bench", "--threads", "1")
    assert code == 0
    assert err == ""
    assert "In short\n\n16 → " in out
    assert "outputs agree" in out
    onnx.checker.check_model("out.onnx", full_check=True)
    assert _digest(mlp) == before


def test_optimize_without_an_output_writes_nothing(mlp: Path, ran: Any) -> None:
    assert ran("optimize", mlp, *FAST)[0] == 0
    assert os.listdir() == ["mlp.onnx"]


def test_quiet_prints_nothing(mlp: Path, ran: Any) -> None:
    assert ran("optimize", mlp, "-o", "out.onnx", "--quiet", *FAST) == (0, "", "")
    assert Path("out.onnx").is_file()


def test_json_is_one_document_and_nothing_else(mlp: Path, ran: Any) -> None:
    code, out, err = ran("optimize", mlp, "-o", "out.onnx", "--json", *FAST)
    assert (code, err) == (0, "")
    read = json.loads(out)
    assert read["after"]["nodes"] < read["before"]["nodes"] == 16
    assert read["parity"] is None
    assert read["output"] == "out.onnx"


def test_the_same_command_writes_the_same_bytes(mlp: Path, ran: Any) -> None:
    ran("optimize", mlp, "-o", "one.onnx", *FAST)
    ran("optimize", mlp, "-o", "two.onnx", *FAST)
    assert _digest(Path("one.onnx")) == _digest(Path("two.onnx"))


def test_reports_are_written_in_both_faces(mlp: Path, ran: Any) -> None:
    code, _, _ = ran("optimize", mlp, "--report", "r.md", "--report", "r.json", *FAST)
    assert code == 0
    assert "## What fired" in Path("r.md").read_text()
    assert json.loads(Path("r.json").read_text())["source"] == str(mlp)


def test_a_report_of_another_kind_is_turned_down_before_any_work(mlp: Path, ran: Any) -> None:
    code, _, err = ran("optimize", mlp, "-o", "out.onnx", "--report", "r.pdf", *FAST)
    assert code == 2
    assert "end it in .html, .md or .json" in err
    assert not Path("out.onnx").exists()


def test_a_level_and_a_rule_can_be_left_out(mlp: Path, ran: Any) -> None:
    off = json.loads(ran("optimize", mlp, "--json", "--disable", "drop_identity", *FAST)[1])
    assert all("drop_identity" not in step["hits"] for step in off["steps"])
    only = json.loads(ran("optimize", mlp, "--json", "--only", "drop_identity", *FAST)[1])
    assert {name for step in only["steps"] for name in step["hits"]} == {"drop_identity"}


def test_a_pass_from_a_file_runs_under_the_same_proof(mlp: Path, ran: Any) -> None:
    Path("mine.py").write_text(
        "def wrong(proto):\n"
        "    for tensor in proto.graph.initializer:\n"
        "        if tensor.raw_data and tensor.data_type == 1:\n"
        "            tensor.raw_data = tensor.raw_data[::-1]\n"
        "    return proto\n"
    )
    code, out, _ = ran(
        "optimize", mlp, "-o", "out.onnx", "--pass", "mine.py:wrong", "--json", "--no-bench"
    )
    assert code == 0
    undone = [step["name"] for step in json.loads(out)["steps"] if step["verdict"] == "undone"]
    assert undone == ["wrong"]
    assert ran("validate", mlp, "out.onnx")[0] == 0


def test_a_result_that_does_not_agree_is_an_error(
    mlp: Path, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = SimpleNamespace(report=report_samples.report(parity=report_samples.DIFFERS))
    monkeypatch.setattr(api, "optimize", lambda *_, **__: failed)
    code, out, err = ran("optimize", mlp, "-o", "out.onnx", "--json")
    assert code == 1
    assert json.loads(out)["parity"]["passed"] is False
    assert "does not agree" in err


def test_an_interrupt_leaves_no_file_behind(mlp: Path, ran: Any) -> None:
    Path("mine.py").write_text("def stop(proto):\n    raise KeyboardInterrupt\n")
    code, out, err = ran("optimize", mlp, "-o", "out.onnx", "--pass", "mine.py:stop", *FAST)
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert not [name for name in os.listdir() if "out" in name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.onnx"], "missing.onnx"),
        (["."], "folder"),
        (["mlp.onnx", "-o", "mlp.onnx"], "the model that was read"),
        (["mlp.onnx", "-o", "no/such/out.onnx"], "no/such"),
        (["mlp.onnx", "--only", "fuse_everything"], "no rule or pass is called"),
        (["mlp.onnx", "--dim", "batch=0"], "batch"),
        (["mlp.onnx", "--dim", "no_such_dim=1"], "no_such_dim"),
        (["mlp.onnx", "--input-shape", "Y:1,64"], "Y"),
        (["mlp.onnx", "--pass", "mine"], "does not name a pass"),
        (["mlp.onnx", "--pass", "no_such_module:f"], "no_such_module"),
        (["mlp.onnx", "--data", "missing.npz"], "missing.npz"),
        (["mlp.onnx", "--opset", "999"], "999"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else None,
)
def test_optimize_turns_bad_input_down(
    arguments: list[str], words: str, mlp: Path, ran: Any
) -> None:
    before = _digest(mlp)
    code, out, err = ran("optimize", *arguments, "--no-bench", "--quiet")
    assert (code, out) == (2, "")
    assert words in err
    assert "hint:" in err
    assert "internal error" not in err
    assert _digest(mlp) == before
    assert os.listdir() == ["mlp.onnx"]


@pytest.mark.parametrize(
    "content", [b"", b"no model at all", b"\x00" * 100], ids=["empty", "text", "zeros"]
)
@pytest.mark.parametrize("command", ["optimize", "inspect", "bench"])
def test_what_is_no_model_is_turned_down(command: str, content: bytes, mlp: Path, ran: Any) -> None:
    mlp.write_bytes(content)
    code, out, err = ran(command, mlp)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "hint:" in err
    assert "internal error" not in err


def test_a_truncated_model_is_turned_down(mlp: Path, ran: Any) -> None:
    mlp.write_bytes(mlp.read_bytes()[:-1000])
    code, _, err = ran("optimize", mlp, "-o", "out.onnx")
    assert code == 2
    assert "internal error" not in err
    assert not Path("out.onnx").exists()


def test_validate_tells_models_apart_by_exit_code(mlp: Path, ran: Any) -> None:
    other = onnx.load(mlp)
    tensor = next(t for t in other.graph.initializer if t.data_type == 1 and len(t.dims) == 2)
    array = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(other, "other.onnx")
    assert ran("validate", mlp, mlp, "--threads", "1")[0] == 0
    code, out, _ = ran("validate", mlp, "other.onnx", "--json")
    assert code == 1
    assert json.loads(out)["passed"] is False


def test_validate_takes_data_of_the_users_own(mlp: Path, ran: Any) -> None:
    samples = np.random.default_rng(0).uniform(0, 16, (6, 64)).astype(np.float32)
    np.savez("data.npz", X=samples)
    code, out, _ = ran("validate", mlp, mlp, "--data", "data.npz", "--batch", "3", "--json")
    assert code == 0
    assert json.loads(out)["runs"] == 2
    np.savez("wrong.npz", Z=samples)
    code, _, err = ran("validate", mlp, mlp, "--data", "wrong.npz")
    assert code == 2
    assert "Z" in err


def test_bench_times_models_against_the_first(mlp: Path, ran: Any) -> None:
    code, out, _ = ran("bench", mlp, mlp, "--seconds", "0.5", "--threads", "1", "--json")
    assert code == 0
    read = json.loads(out)
    assert len(read["sides"]) == 2
    assert read["sides"][0]["peak_bytes"] > 0


def test_inspect_shows_what_is_in_a_model(mlp: Path, ran: Any) -> None:
    code, out, _ = ran("inspect", mlp)
    assert code == 0
    for word in ("skl2onnx", "ai.onnx 21", "MatMul", "FLOAT", "What would block"):
        assert word in out
    read = json.loads(ran("inspect", mlp, "--json")[1])
    assert read["inputs"][0]["name"] == "X"
    assert read["cost"]["nodes"] == 16


def test_inspect_says_what_freezing_would_bring(ran: Any) -> None:
    code, out, _ = ran("inspect", MODELS / "ultraface.onnx")
    assert code == 0
    assert "--freeze-inputs" in out


def test_diff_shows_changes_by_name(mlp: Path, ran: Any) -> None:
    onnx.save(parse("g (float[2] x) => (float[2] y) { [n] y = Relu(x) }"), "a.onnx")
    onnx.save(parse("g (float[2] x) => (float[2] y) { [n] y = Abs(x) }"), "b.onnx")
    code, out, _ = ran("diff", "a.onnx", "b.onnx")
    assert code == 0
    assert "y = Relu(x) → y = Abs(x)" in out
    assert json.loads(ran("diff", "a.onnx", "b.onnx", "--json")[1])["same_nodes"] == 0


def test_rules_lists_and_explains(ran: Any) -> None:
    assert "fuse_gelu" in ran("rules")[1]
    code, out, _ = ran("rules", "fuse_gelu")
    assert code == 0
    assert "Gelu(x)" in out
    assert json.loads(ran("rules", "fuse_gelu", "--json")[1])["exactness"] == "close"
    code, _, err = ran("rules", "fuse_gelo")
    assert code == 2
    assert "did you mean 'fuse_gelu'" in err


def test_pictures_are_inputs_for_every_command_that_runs_models(mlp: Path, ran: Any) -> None:
    pytest.importorskip("PIL.Image")
    model = parse("g (float[N,3,4,4] x) => (float[N,3,4,4] y) { [n] y = Relu(x) }")
    onnx.save(model, "net.onnx")
    Path("pictures").mkdir()
    Path("pictures/a.ppm").write_bytes(b"P6 4 4 255\n" + bytes(range(48)))
    data = ("--data", "pictures", "--preprocess", "unit", "--threads", "1")
    assert ran("validate", "net.onnx", "net.onnx", *data)[0] == 0
    assert ran("bench", "net.onnx", "--seconds", "0.1", *data)[0] == 0
    code, out, _ = ran("optimize", "net.onnx", "--no-bench", *data)
    assert code == 0
    assert "in 1 run" in out
    code, _, err = ran("validate", "net.onnx", "net.onnx", "--data", "pictures")
    assert code == 2 and "--preprocess" in err
    code, _, err = ran("validate", "net.onnx", "net.onnx", "--preprocess", "unit")
    assert code == 2 and "no pictures" in err


def test_a_report_is_written_whole_or_not_at_all(mlp: Path, ran: Any) -> None:
    code, _, _ = ran("optimize", mlp, "--report", "r.html", *FAST)
    assert code == 0
    assert Path("r.html").read_text().startswith("<!DOCTYPE html>")
    Path("taken.md").mkdir()
    code, _, err = ran("optimize", mlp, "--report", "taken.md", *FAST)
    assert code == 2 and "taken.md" in err
    assert not [name for name in os.listdir() if "part" in name]
