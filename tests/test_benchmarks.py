"""The benchmark measures others; here it is measured itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pruning import drawn

from onnxopt.report.page import Curve
from tests.benchmarks import calibration, prune, pruners, quantize, quantizers
from tests.benchmarks.commands import AGAIN, Times, ratio
from tests.benchmarks.judge import agree, count_loaded_nodes, count_nodes, grew, outputs
from tests.benchmarks.process import run
from tests.benchmarks.scaling import mixed_model
from tests.benchmarks.tables import geometric_mean, markdown
from tests.benchmarks.tasks import Quality, Task, quality
from tests.benchmarks.transformer import External, Inline, Sizes, bert
from tests.benchmarks.zoo import Model, feed

TINY = Sizes(layers=1, hidden=8, heads=2, vocabulary=11, positions=64)


def test_a_command_is_timed_and_its_peak_memory_is_its_own() -> None:
    held = bytearray(300_000_000)
    ran = run([sys.executable, "-c", "x = bytearray(80_000_000)"])
    assert (ran.code, ran.said) == (0, "")
    assert ran.seconds > 0
    assert 80_000_000 < ran.peak_bytes < 200_000_000 < len(held)


def test_a_command_that_fails_leaves_its_last_words() -> None:
    ran = run([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert (ran.failed, ran.said) == (True, "no such thing")


def test_a_command_that_hangs_is_killed() -> None:
    ran = run([sys.executable, "-c", "import time; time.sleep(60)"], limit=1)
    assert (ran.failed, ran.said) == (True, "killed after 1 s")


def test_a_command_that_is_not_there_has_failed() -> None:
    assert "not installed" in run(["no-such-optimizer"]).said


def test_nodes_are_counted_in_bodies_and_functions_but_constants_are_not(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "f" : 1]>'
        "g (bool c, float[2] x) => (float[2] y) {"
        " z = f.twice(x) k = Constant<value_float = 1.0>()"
        " y = If (c) <then_branch = a () => (float[2] p) { p = Neg(z) },"
        "             else_branch = b () => (float[2] q) { q = Add(z, k) }> }"
        '<domain: "f", opset_import: ["" : 21]> twice (x) => (y) { y = Add(x, x) }'
    )
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(text), path)
    assert count_nodes(path) == 5


def test_loaded_nodes_are_those_that_onnxruntime_leaves(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2,2] x) => (float[2,2] y)'
        "{ a = Identity(x) b = Identity(a) y = Neg(b) }"
    )
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(text), path)
    assert (count_nodes(path), count_loaded_nodes(path)) == (3, 1)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (np.float32([1, 1000]), np.float32([1.5, 1000]), True),
        (np.float32([1, 1000]), np.float32([3, 1000]), False),
        (np.float32([np.nan]), np.float32([np.nan]), True),
        (np.float32([np.nan]), np.float32([1]), False),
        (np.float32([1]), np.float64([1]), False),
        (np.int64([[1]]), np.int64([1]), False),
        ([{"a": 1.0}], [{"a": 1.0}], True),
        ([{"a": 1.0}], [{"a": 2.0}], False),
        ([np.float32([1])], [], False),
    ],
)
def test_results_agree_up_to_a_thousandth_of_the_largest(
    expected: Any, found: Any, same: bool
) -> None:
    assert agree(expected, found) is same


def test_growth_counts_every_file_of_the_result(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"x" * 60_000)
    assert not grew(1000, tmp_path)
    (tmp_path / "out.onnx.data").write_bytes(b"x" * 60_000)
    assert grew(1000, tmp_path)


def test_a_small_bert_runs_with_open_sizes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(bert(External(tmp_path / "model.onnx.data"), TINY), path)
    onnx.checker.check_model(path, full_check=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    for batch, length in ((1, 3), (2, 5)):
        states, pooled = outputs(path, {n: np.ones((batch, length), np.int64) for n in names})
        assert (states.shape, pooled.shape) == ((batch, length, 8), (batch, 8))
        assert np.isfinite(pooled).all()


def test_weights_outside_and_inside_the_file_make_the_same_model(tmp_path: Path) -> None:
    outside = bert(External(tmp_path / "data"), TINY).graph
    inside = bert(Inline(), TINY).graph
    assert list(outside.node) == list(inside.node)
    assert [t.dims for t in outside.initializer] == [t.dims for t in inside.initializer]


@pytest.mark.parametrize("count", [10, 400])
def test_the_mixed_model_has_the_nodes_asked_for_and_runs(count: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(mixed_model(count), path)
    assert count <= len(onnx.load(path).graph.node) <= count + 200
    image, tokens = outputs(
        path,
        {
            "image": np.ones((2, 8, 32, 32), np.float32),
            "tokens": np.ones((2, 3, 16), np.float32),
            "mask": np.ones((2, 3), np.int64),
        },
    )
    assert (image.shape, tokens.shape) == ((2, 8, 32, 32), (2, 3, 16))


def test_a_model_without_stored_inputs_gets_random_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(bert(Inline(), TINY), path)
    made = feed(Model("bert", path))
    assert {name: array.dtype for name, array in made.items()} == dict.fromkeys(made, np.int64)
    assert len(outputs(path, made)) == 2


def test_a_failure_has_no_part_in_a_mean() -> None:
    row = {name: Times([seconds], [seconds]) for name, seconds in (("onnxopt", 1.0), (AGAIN, 2.0))}
    assert ratio(row, AGAIN) == 0.5
    row[AGAIN].failure = "killed"
    assert np.isnan(ratio(row, AGAIN))


def test_ratios_are_averaged_so_that_their_order_does_not_matter() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert np.isnan(geometric_mean([]))


def test_columns_of_numbers_are_aligned_right() -> None:
    assert markdown(("a", ">b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_calibration_of_a_small_model_is_measured_with_both_tools(tmp_path: Path) -> None:
    path, stored = tmp_path / "model.onnx", tmp_path / "model.npz"
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x) => (float[1,1,4,4] y)'
        " <float[1,2,1,1] w = {1, 2}> { y = Conv(x, w) }"
    )
    ir.save(ir.from_onnx_text(text), path)
    np.savez(stored, **feed(Model("model", path)))
    found = calibration._measured(path, stored, "percentile", 4, 1)
    assert {tool: runs[0].ranges for tool, runs in found.items()} == {
        "onnxopt": 2,
        "onnxruntime": 2,
    }
    assert all(runs[0].seconds > 0 and runs[0].peak_bytes > 1e6 for runs in found.values())


def test_samples_are_read_one_by_one_from_a_file_or_a_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(3, 2))
    rows = list(quantizers.feeds(tmp_path / "a.npz"))
    assert [feed["x"].tolist() for feed in rows] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one" / "0.npz", x=np.zeros((1, 7)))
    assert [feed["x"].shape for feed in quantizers.feeds(tmp_path / "one")] == [(1, 7)]


def task(scores: np.ndarray[Any, Any]) -> Task:
    right = scores.argmax(axis=1)
    return Task([], [], {}, "top-1", lambda s: float((s.argmax(axis=1) == right).mean()), True)


def test_quality_is_told_against_labels_and_against_the_float_model() -> None:
    wanted = np.array([[3.0, 1.0], [1.0, 3.0]])
    near, far = wanted + 0.01, wanted[:, ::-1]
    assert quality(task(wanted), wanted, near).agreement == 1
    assert quality(task(wanted), wanted, near).sqnr_db > 40
    assert quality(task(wanted), wanted, far) == Quality(0.0, 0.0, pytest.approx(0.97, abs=0.01))


def test_a_quantizer_runs_in_a_process_of_its_own_and_a_failure_is_told(tmp_path: Path) -> None:
    weight = ", ".join(["1.5"] * 32)
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,8] y)'
        f"<float[4,8] w = {{{weight}}}> {{ y = MatMul(x, w) }}"
    )
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    made = quantize.quantized(
        "onnxruntime, dynamic", tmp_path / "model.onnx", tmp_path / "none", tmp_path / "out.onnx"
    )
    assert (made.failure, made.told, made.path.is_file()) == ("", None, True)
    failed = quantize.quantized(
        "onnxruntime, dynamic", tmp_path / "no.onnx", tmp_path / "none", tmp_path / "other.onnx"
    )
    assert failed.failure


@pytest.mark.parametrize("measured", [quantize, prune])
def test_without_data_the_section_says_what_it_needs(tmp_path: Path, measured: Any) -> None:
    path = tmp_path / "models" / "a" / "model.onnx"
    found = measured.section([Model("a", path)], seconds=1)
    assert found.rows == [] and "score.py" in found.markdown()


SCORE = """
import numpy as np
def cifar_input(pixels):
    return (pixels.astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()
def cifar_test(data):
    with np.load(data / "cifar10" / "test.npz") as stored:
        return cifar_input(stored["images"]), stored["labels"]
"""


@pytest.fixture
def small_zoo(tmp_path: Path) -> Model:
    """A network of two convolutions under the name of a known one, with its data."""
    random = np.random.default_rng(0)
    folder = tmp_path / "models" / "cifar_resnet20_ts"
    data = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    data.mkdir(parents=True)
    graph = drawn(
        """g (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv(b, w2) d = Relu(c)
            e = GlobalAveragePool(d) f = Flatten(e) y = Gemm(f, w3)
        }""",
        w1=(32, 3, 3, 3), w2=(32, 32, 1, 1), w3=(32, 4),
    )  # fmt: skip
    ir.save(graph, folder / "model.onnx")
    (tmp_path / "score.py").write_text(SCORE)
    images = random.integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
    np.savez(data / "calibration.npz", images=images[:40])
    np.savez(data / "test.npz", images=images[40:], labels=np.arange(20) % 4)
    return Model("cifar_resnet20_ts", folder / "model.onnx")


def test_pruners_are_compared_on_accuracy_over_work(
    small_zoo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "FEW", 10)
    monkeypatch.setattr(prune, "TENFOLD", 100)
    tools = ("onnxopt", "magnitude, as Torch-Pruning", "none such")
    found = prune.section([small_zoo], seconds=0.5, ratios=[0.6], tools=tools)
    table = {row[1]: dict(zip(prune.COLUMNS, row, strict=True)) for row in found.rows}
    assert float(table["float"][">MACs"]) == 1 and table["float"][">agreement"] == "100.00"
    for tool in tools[:2]:
        assert 0.3 < float(table[tool][">MACs"]) <= 0.6
        assert 0 < float(table[tool][">parameters"]) < 1
        assert float(table[tool][">s"]) > 0 and float(table[tool][">peak MB"]) > 10
    assert table["none such"][">top-1"] == "failed" and any("none such" in n for n in found.notes)
    (label,) = (label for label in found.summary if label.startswith("peak memory of 100"))
    assert 0.8 < float(found.summary[label].removesuffix("x")) < 1.3
    (curve,) = (block for block in found.picture if isinstance(block, Curve))
    assert [series.name for series in curve.series] == list(tools[:2])
    assert all(len(series.points) == 2 and series.points[-1][0] == 1 for series in curve.series)


def test_a_tool_without_a_target_is_asked_until_the_work_fits(
    small_zoo: Model, tmp_path: Path
) -> None:
    pytest.importorskip("onnxsim")
    out = tmp_path / "out.onnx"
    tool = pruners.TOOLS["onnxsim, magnitude"]
    told = tool(small_zoo.path, tmp_path, 0.6, out)
    left = pruners.work(onnx.load(out)) / pruners.work(onnx.load(small_zoo.path))
    assert left == pytest.approx(0.6, abs=0.05) and told["asked"].startswith("sparsity=0.")
