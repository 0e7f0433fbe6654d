"""What can be wrong with what `onnxopt quantize` is given: a clear message, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from casefile import parse

from onnxopt.cli.main import INTERRUPTED
from onnxopt.quantize.workshop import Workshop

FAST = ("--no-bench", "--threads", "1", "--metric", "sqnr")
LOOSE = (*FAST, "--max-drop", "10")
RANDOM = np.random.default_rng(0)
SHAPE = (8, 6, 6)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    numbers = RANDOM.standard_normal(shape).astype(np.float32) * 0.3
    return onnx.numpy_helper.from_array(numbers, name)


def _net(body: str, *weights: onnx.TensorProto, kind: str = "float") -> onnx.ModelProto:
    model = parse(f"g ({kind}[N,8,6,6] x) => ({kind}[N,8,6,6] y) {{ {body} }}")
    model.graph.initializer.extend(weights)
    return model


NET = _net(
    "[c1] a = Conv(x, w1) [r1] b = Relu(a) [c2] y = Conv(b, w2)",
    _weight("w1", 8, 8, 1, 1),
    _weight("w2", 8, 8, 1, 1),
)


def _samples(count: int = 10, scale: float = 1.0) -> Any:
    numbers = np.random.default_rng(1).standard_normal((count, *SHAPE)) * scale
    return numbers.astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small network and data that fits it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(NET, "net.onnx")
    np.save("data.npy", _samples())
    return tmp_path


class Quantizing:
    """Runs `quantize` on net.onnx with data.npy unless something else is said."""

    def __init__(self, ran: Any) -> None:
        self._ran = ran

    def __call__(
        self, *arguments: object, model: str = "net.onnx", data: str | None = "data.npy"
    ) -> tuple[int, str, str]:
        """The exit code, standard output and standard error."""
        given = () if data is None else ("--data", data)
        found: tuple[int, str, str] = self._ran(
            "quantize", model, "-o", "out.onnx", *given, *arguments
        )
        return found

    def refused(self, word: str, *arguments: object, **how: Any) -> None:
        """It ends with exit code 2 and a message with `word`, and leaves no file behind."""
        before = sorted(os.listdir())
        code, out, err = self(*LOOSE, *arguments, **how)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert word in err
        assert sorted(set(os.listdir()) - {"__pycache__"}) == before


@pytest.fixture
def quantizing(ran: Any) -> Quantizing:
    return Quantizing(ran)


def test_no_data_is_refused_and_noise_has_to_be_asked_for(quantizing: Quantizing) -> None:
    quantizing.refused("there is no data", data=None)
    code, out, _ = quantizing(*LOOSE, data="random")
    assert code == 0
    assert "the samples are noise" in out


@pytest.mark.parametrize(
    ("arguments", "data", "word"),
    [((), None, "there is no data"), (("--target", "toaster"), "data.npy", "toaster")],
    ids=["data", "target"],
)
def test_what_is_known_to_fail_is_said_before_the_model_is_optimized(
    quantizing: Quantizing,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    data: str | None,
    word: str,
) -> None:
    monkeypatch.setattr("onnxopt.api.optimize", lambda *_, **__: pytest.fail("it began"))
    quantizing.refused(word, *arguments, data=data)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"z": _samples()}, "no input 'z'"),
        ({"x": np.zeros((10, 8, 5, 6), np.float32)}, "float32[1, 8, 5, 6]"),
        ({"x": np.zeros((10, 8, 6, 6), np.float64)}, "float64"),
        ({"x": np.zeros((10, 8, 6, 6), np.uint8)}, "uint8"),
        ({"x": np.zeros((10, 6), np.float32)}, "[10, 6]"),
        ({"x": np.array(["a"] * 10)}, "'x'"),
        ({}, "no samples"),
    ],
    ids=["name", "shape", "double", "bytes", "rank", "words", "nothing"],
)
def test_data_that_does_not_fit_is_named(
    quantizing: Quantizing, arrays: dict[str, Any], word: str
) -> None:
    np.savez("bad.npz", **arrays)
    quantizing.refused(word, data="bad.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_named(quantizing: Quantizing, value: float) -> None:
    bad = _samples()
    bad[3, 2, 1, 0] = value
    np.save("bad.npy", bad)
    quantizing.refused("'x'", data="bad.npy")


def test_an_activation_that_is_not_finite_is_named(quantizing: Quantizing) -> None:
    onnx.save(_net("a = Conv(x, w) b = Log(a) y = Conv(b, w)", _weight("w", 8, 8, 1, 1)), "n.onnx")
    quantizing.refused("'b' holds NaN", model="n.onnx")


@pytest.mark.parametrize("content", [0.0, 3.25], ids=["zeros", "constant"])
def test_data_without_a_spread_goes_through(quantizing: Quantizing, content: float) -> None:
    np.save("flat.npy", np.full((10, *SHAPE), content, np.float32))
    code, _, err = quantizing(*LOOSE, data="flat.npy")
    assert (code, err) == (0, "")
    _runs("out.onnx", np.full((2, *SHAPE), content, np.float32))


def test_a_weight_of_zeros_goes_through(quantizing: Quantizing) -> None:
    zeros = onnx.numpy_helper.from_array(np.zeros((8, 8, 1, 1), np.float32), "w1")
    onnx.save(_net("a = Conv(x, w1) y = Conv(a, w2)", zeros, _weight("w2", 8, 8, 1, 1)), "n.onnx")
    code, _, err = quantizing(*LOOSE, model="n.onnx")
    assert (code, err) == (0, "")
    assert not _runs("out.onnx", _samples(2)).any()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-40], ids=str)
def test_ranges_of_any_size_give_a_model_that_runs(quantizing: Quantizing, scale: float) -> None:
    np.save("far.npy", _samples(scale=scale))
    code, _, err = quantizing(*LOOSE, data="far.npy")
    assert (code, err) == (0, "")
    assert np.isfinite(_runs("out.onnx", _samples(2, scale))).all()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("raise KeyError('class')", "KeyError"),
        ("return float('nan')", "NaN"),
        ("return 'good'", "ValueError"),
        ("return None", "TypeError"),
        ("return [1.0, 2.0]", "TypeError"),
    ],
)
def test_a_metric_that_fails_is_named(
    quantizing: Quantizing, here: Path, body: str, word: str
) -> None:
    (here / "mine.py").write_text(f"def score(outputs, feeds):\n    {body}\n")
    sys.modules.pop("mine", None)
    quantizing.refused("mine:score", "--metric", "mine:score")
    code, _, err = quantizing("--metric", "mine:score", "--no-bench", "--threads", "1")
    assert code == 2 and word in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--target", "toaster"), "toaster"),
        (("--metric", "loudness"), "loudness"),
        (("--metric", "nowhere:score"), "nowhere"),
        (("--metric", "top1"), "labels"),
        (("--metric", "top1", "--labels", "data.npy"), "labels"),
        (("--max-drop", "-1"), "-1"),
        (("--method", "guess"), "guess"),
        (("--preprocess", "imagenet"), "only pictures"),
        (("--cache", "data.npy"), "data.npy is a file"),
        (("--report", "absent/report.html"), "absent"),
        (("--batch", "0"), "0"),
    ],
    ids=str,
)
def test_an_option_that_can_not_be_used_is_named(
    ran: Any, arguments: tuple[str, ...], word: str
) -> None:
    asked = ("--data", "data.npy", "--no-bench", "--threads", "1", *arguments)
    code, _, err = ran("quantize", "net.onnx", "-o", "out.onnx", *asked)
    assert code == 2
    assert word in err
    assert not Path("out.onnx").exists()


def test_a_quantized_model_is_refused(quantizing: Quantizing) -> None:
    assert quantizing(*LOOSE)[0] == 0
    shutil.move("out.onnx", "int8.onnx")
    quantizing.refused("quantized already", model="int8.onnx")


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_floats_are_refused_by_name(quantizing: Quantizing, kind: str, dtype: Any) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((8, 8, 1, 1), dtype), "w")
    onnx.save(_net("y = Conv(x, w)", weight, kind=kind), "other.onnx")
    np.save("other.npy", _samples().astype(dtype))
    quantizing.refused(kind, model="other.onnx", data="other.npy")


def test_empty_batches_and_folders_are_refused(quantizing: Quantizing, here: Path) -> None:
    np.save("empty.npy", np.zeros((0, *SHAPE), np.float32))
    quantizing.refused("no samples", data="empty.npy")
    (here / "folder").mkdir()
    quantizing.refused("folder", data="folder")
    (here / "folder" / "notes.txt").write_text("no picture")
    quantizing.refused("folder", data="folder")
    quantizing.refused("absent", data="absent")


def test_a_picture_that_is_none_is_named(quantizing: Quantizing, here: Path) -> None:
    pytest.importorskip("PIL.Image")
    _pictures(here)
    (here / "pictures" / "0.png").write_bytes(b"no picture")
    quantizing.refused("0.png", "--preprocess", "unit", model="rgb.onnx", data="pictures")


def test_pictures_without_pillow_are_refused(
    quantizing: Quantizing, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(here)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    quantizing.refused("onnxopt[images]", "--preprocess", "unit", model="rgb.onnx", data="pictures")


def test_a_budget_that_can_not_be_met_writes_only_what_is_asked_for(quantizing: Quantizing) -> None:
    code, out, err = quantizing(*FAST, "--max-drop", "0", "--report", "r.json")
    assert code == 1
    assert "The budget is missed" in out
    assert "--keep-best writes the best found" in err
    assert not Path("out.onnx").exists()
    assert json.loads(Path("r.json").read_text())["score"]["drop"] > 0
    code, _, err = quantizing(*FAST, "--max-drop", "0", "--keep-best")
    assert code == 1
    assert "QuantizeLinear" in {node.op_type for node in onnx.load("out.onnx").graph.node}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"target": "cpu", "nodes": 3, "grids": {}, "weight_bits": {}}',
        '{"target": "toaster", "nodes": [], "grids": {}, "weight_bits": {}}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_broken_plan_is_refused(quantizing: Quantizing, here: Path, text: str) -> None:
    (here / "plan.json").write_text(text, encoding="utf-8")
    quantizing.refused("", "--plan", "plan.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"quantize": true', '"quantize": "yes"'),
        ('"scale": ', '"scale": -'),
        ('"scale": ', '"scale": 1e999, "was": '),
        ('"zero_point": ', '"zero_point": 999'),
        ('"dtype": "uint8"', '"dtype": "float8"'),
        ('"node": "c1"', '"node": "nobody"'),
        ('"target": "cpu"', '"target": 5'),
    ],
)
def test_an_edit_that_breaks_the_plan_is_refused(
    quantizing: Quantizing, here: Path, old: str, new: str
) -> None:
    assert quantizing("--plan-only", "plan.json", *LOOSE)[0] == 0
    assert not Path("out.onnx").exists()
    text = (here / "plan.json").read_text()
    assert old in text
    (here / "plan.json").write_text(text.replace(old, new))
    quantizing.refused("", "--plan", "plan.json")


def test_a_plan_of_another_model_is_refused(quantizing: Quantizing) -> None:
    assert quantizing("--plan-only", "plan.json", *LOOSE)[0] == 0
    onnx.save(_net("[other] y = Conv(x, w)", _weight("w", 8, 8, 1, 1)), "other.onnx")
    quantizing.refused("c1", "--plan", "plan.json", model="other.onnx")
    quantizing.refused("absent.json", "--plan", "absent.json")
    quantizing.refused(".", "--plan", ".")


def test_the_input_is_not_overwritten_unasked(ran: Any) -> None:
    before = Path("net.onnx").read_bytes()
    assert ran("quantize", "net.onnx", "-o", "net.onnx", "--data", "data.npy", *LOOSE)[0] == 2
    assert Path("net.onnx").read_bytes() == before
    asked = ("--overwrite", "--data", "data.npy", *LOOSE)
    assert ran("quantize", "net.onnx", "-o", "net.onnx", *asked)[0] == 0
    assert Path("net.onnx").read_bytes() != before


def test_an_output_that_can_not_be_written_is_found_before_the_work(
    quantizing: Quantizing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "plan", lambda *_: pytest.fail("it began"))
    Path("file").write_text("")
    code, _, err = quantizing(*LOOSE, "-o", "file/out.onnx")
    assert code == 2 and "file" in err


def test_an_interrupt_keeps_the_ranges(
    quantizing: Quantizing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "build", interrupted)
        code, _, err = quantizing(*LOOSE, "--cache", "ranges")
    assert code == INTERRUPTED
    assert "interrupted" in err
    assert not Path("out.onnx").exists()
    (kept,) = Path("ranges").iterdir()
    assert set(json.loads(kept.read_text())["tensors"]) >= {"x", "b"}
    assert quantizing(*LOOSE, "--cache", "ranges")[0] == 0


STREAM = """
import numpy as np

calls = []


def feeds():
    calls.append(1)
    for number in range(10):
        if len(calls) == 3 and number == 7:
            raise KeyboardInterrupt
        yield {"x": np.full((1, 8, 6, 6), number, np.float32)}
"""


def test_an_interrupt_while_calibrating_keeps_the_samples_that_are_done(
    quantizing: Quantizing, here: Path
) -> None:
    # The data is read to split it, to know it again, and to calibrate with it.
    (here / "stream.py").write_text(STREAM)
    sys.modules.pop("stream", None)
    assert quantizing(*LOOSE, "--cache", "ranges", data="stream:feeds")[0] == INTERRUPTED
    (kept,) = Path("ranges").iterdir()
    done = json.loads(kept.read_text())
    assert 0 < done["tensors"]["x"]["feeds"] < done["feeds"] == 8
    assert quantizing(*LOOSE, "--cache", "ranges", data="stream:feeds")[0] == 0


def _pictures(here: Path) -> None:
    """Pictures, and a network for them."""
    model = parse("g (float[N,3,8,8] x) => (float[N,8,8,8] y) { y = Conv(x, w) }")
    model.graph.initializer.append(_weight("w", 8, 3, 1, 1))
    onnx.save(model, "rgb.onnx")
    (here / "pictures").mkdir()
    for number in range(3):
        head = b"P6 8 8 255\n"
        (here / "pictures" / f"{number}.ppm").write_bytes(head + bytes(8 * 8 * 3))


def _runs(path: str, inputs: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]
