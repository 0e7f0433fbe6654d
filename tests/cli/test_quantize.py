"""`onnxopt quantize` end to end: what it prints, writes and returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxopt.cli.quantize import command as quantize
from onnxopt.quantize.weights import DEFAULT

MODELS = Path(__file__).resolve().parents[2] / "models"
FAST = ("--no-bench", "--threads", "1", "--metric", "sqnr", "--max-drop", "5%")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small network and made-up data for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS / "cifar_resnet20.onnx", "net.onnx")
    images = np.random.default_rng(0).standard_normal((10, 3, 32, 32)).astype(np.float32)
    np.save("data.npy", images)
    return tmp_path


def _ops(path: str) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_it_writes_an_integer_model_and_says_what_runs_how(here: Path, ran: Any) -> None:
    code, out, err = ran(
        "quantize", "net.onnx", "--data", "data.npy", "-o", "out.onnx", "--report", "r.json", *FAST
    )
    assert (code, err) == (0, "")
    assert "QLinearConv" in out
    assert "2 runs of 10 kept apart to measure on: each fifth" in out
    assert "it reads 3 channels" in out
    assert "Quantized: it holds the budget" in out
    assert "QuantizeLinear" in _ops("out.onnx")
    report = json.loads(Path("r.json").read_text())
    assert report["verdict"] == "int8"
    assert report["layers"][0]["reason"]


def test_weights_are_treated_as_asked(here: Path, ran: Any) -> None:
    decibels = {}
    for names in (",".join(DEFAULT), "", "equalize,bias"):
        code, out, _ = ran(
            "quantize", "net.onnx", "--data", "data.npy", "-o", f"{len(names)}.onnx",
            "--weights", names, "--json", *FAST,
        )  # fmt: skip
        assert code == 0
        decibels[names] = json.loads(out)["sqnr_db"]
    plain = decibels.pop("")
    assert all(found > plain + 0.5 for found in decibels.values())


def test_a_way_to_treat_weights_that_there_is_not_is_refused(here: Path, ran: Any) -> None:
    asked = ("--weights", "order,spin", *FAST)
    code, _, err = ran("quantize", "net.onnx", "--data", "data.npy", "-o", "out.onnx", *asked)
    assert code == 2
    assert "no weight method 'spin'" in err
    assert "equalize, order, centre" in err


def test_the_help_shows_how_weights_are_treated_by_default() -> None:
    option = next(each for each in quantize.params if each.name == "weights")
    assert option.default == ",".join(DEFAULT)


def test_a_missed_budget_is_exit_code_1_and_no_file(here: Path, ran: Any) -> None:
    asked = ("--no-bench", "--threads", "1", "--metric", "sqnr", "--max-drop", "0")
    code, out, err = ran("quantize", "net.onnx", "--data", "data.npy", "-o", "out.onnx", *asked)
    assert code == 1
    assert "The budget is missed" in out
    assert "nothing was written" in err
    assert not Path("out.onnx").exists()


def test_a_plan_can_be_written_edited_and_carried_out(here: Path, ran: Any) -> None:
    code, out, _ = ran("quantize", "net.onnx", "--data", "data.npy", "--plan-only", "p.json", *FAST)
    assert code == 0
    assert "Planned: " in out
    plan = json.loads(Path("p.json").read_text())
    last = [node for node in plan["nodes"] if node["quantize"]][-1]
    last["quantize"] = False
    Path("p.json").write_text(json.dumps(plan))
    code, out, _ = ran(
        "quantize", "net.onnx", "--data", "data.npy", "--plan", "p.json", "-o", "out.onnx",
        "--json", *FAST,
    )  # fmt: skip
    assert code == 0
    layers = {layer["node"]: layer for layer in json.loads(out)["layers"]}
    assert layers[last["node"]]["kernel"] == "float"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "no data"),
        (("--data", "absent.npy"), "absent.npy"),
        (("--data", "data.npy", "--target", "toaster"), "toaster"),
        (("--data", "data.npy", "--metric", "top1"), "labels"),
        (("--data", "data.npy", "--metric", "json:dumps"), "json:dumps"),
        (("--data", "data.npy", "--metric", "top1", "--labels", "absent.npy"), "absent.npy"),
        (("--data", "data.npy", "--plan", "absent.json"), "absent.json"),
        (("--data", "data.npy", "--report", "report.txt"), "report.txt"),
    ],
    ids=str,
)
def test_bad_input_is_exit_code_2_with_one_clear_message(
    here: Path, ran: Any, arguments: tuple[str, ...], word: str
) -> None:
    code, _, err = ran("quantize", "net.onnx", "-o", "out.onnx", "--no-bench", *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert word in err
    assert not Path("out.onnx").exists()


def test_pictures_are_data_when_it_is_said_how_they_are_read(here: Path, ran: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    (here / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (10, 40, 50, 3), np.uint8)
    for index, each in enumerate(pixels):
        image.fromarray(each).save(here / "pictures" / f"{index}.png")
    asked = ("quantize", "net.onnx", "--data", "pictures", "--plan-only", "plan.json", *FAST)
    code, _, error = ran(*asked)
    assert code == 2 and "--preprocess" in error
    code, _, _ = ran(*asked, "--preprocess", "imagenet")
    assert code == 0 and json.loads((here / "plan.json").read_text())["grids"]


def test_optimize_can_quantize_in_the_same_go(here: Path, ran: Any) -> None:
    code, _, err = ran(
        "optimize", "net.onnx", "--quantize", "--data", "data.npy", "-o", "out.onnx",
        "--disable", "fold_batch_norm_into_conv", "--report", "r.html", "--report", "r.json", *FAST,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "QuantizeLinear" in _ops("out.onnx")
    report = json.loads(Path("r.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["original", "optimized", "quantized"]
    assert "fold_batch_norm_into_conv" in report["optimization"]["options"]["disable"]
    assert "<h2>What fired</h2>" in Path("r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--target", "cpu"), "--target is for quantization"),
        (("--strict",), "--strict is for quantization"),
        (("--quantize",), "there is no data"),
        (("--quantize", "--data", "data.npy", "--provider", "cuda"), "CPU provider only"),
    ],
    ids=str,
)
def test_options_of_both_are_kept_apart(
    here: Path, ran: Any, arguments: tuple[str, ...], word: str
) -> None:
    code, _, err = ran("optimize", "net.onnx", "-o", "out.onnx", *arguments)
    assert code == 2
    assert word in err
    assert not Path("out.onnx").exists()
