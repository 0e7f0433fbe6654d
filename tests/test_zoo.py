"""Real models come out right, no larger in nodes than the best rival leaves them, and as good.

`models/` is always tested, `../shared/zoo` beside the repository where it is there. What the rivals
left of each model is in zoo_nodes.toml.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxopt
from onnxopt import io
from onnxopt.check.feeds import synthesize
from tests.benchmarks.judge import count_nodes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT.parent / "shared" / "zoo"
FOREIGN = "ort_supres_prepost"  # needs operators of onnxruntime-extensions
SLOW = pytest.mark.skipif(
    not os.environ.get("ONNXOPT_SLOW"), reason="takes minutes: ONNXOPT_SLOW=1"
)
HAS_ZOO = pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not beside the repository")

RIVALS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("zoo_nodes.toml").read_text())

ALL_OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL_ON = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def _paths() -> list[Any]:
    zoo = {path.parent.name: path for path in sorted((ZOO / "models").glob("*/model.onnx"))}
    zoo.pop(FOREIGN, None)
    own = {f"models/{path.stem}": path for path in sorted((ROOT / "models").glob("*.onnx"))}
    absent = () if zoo else (pytest.param(None, id="zoo", marks=HAS_ZOO),)
    return [*(pytest.param(path, id=name) for name, path in (own | zoo).items()), *absent]


@dataclass(frozen=True)
class Optimized:
    """A model before and after, the file after, and one feed."""

    path: Path
    before: onnx.ModelProto
    result: onnxopt.Result
    file: Path
    feed: dict[str, Any]
    frozen: bool

    def run(self, path: Path, level: Any) -> list[Any]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        outputs: list[Any] = session.run(None, {k: v for k, v in self.feed.items() if k in names})
        return outputs


@pytest.fixture(scope="module", params=_paths())
def model(request, tmp_path_factory):
    path: Path = request.param
    before = onnx.load(path)
    weights = {tensor.name for tensor in before.graph.initializer}
    # Other tools take weights that a caller may override for constants.
    frozen = before.ir_version >= 4 and any(info.name in weights for info in before.graph.input)
    file = tmp_path_factory.mktemp("zoo") / "out.onnx"
    result = onnxopt.optimize(path, bench=False, threads=1, freeze_inputs=frozen, output=file)
    return Optimized(path, before, result, file, _feed(path), frozen)


def _feed(path: Path) -> dict[str, Any]:
    stored = path.with_name("inputs.npz")
    if not stored.is_file():
        return dict(next(iter(synthesize(io.load(path), count=1))))
    with np.load(stored) as arrays:
        return {name.replace("__SL__", "/"): arrays[name] for name in arrays.files}


def test_it_keeps_its_promises(model):
    report = model.result.report
    assert report.parity is not None and report.parity.passed
    assert not report.undone


def test_it_is_as_valid_as_it_was(model):
    if not _complaint(model.before):
        assert not _complaint(onnx.load(model.file))


def test_its_interface_is_what_it_was(model):
    after = onnx.load(model.file)
    weights = {tensor.name for tensor in model.before.graph.initializer}
    if not model.frozen and model.before.ir_version >= 4:
        weights = set()  # below version 4 weights are listed as inputs that nobody can feed
    kept = [info for info in model.before.graph.input if info.name not in weights]
    assert [info for info in after.graph.input if info.name not in weights] == kept
    assert list(after.graph.output) == list(model.before.graph.output)
    assert after.opset_import == model.before.opset_import
    assert after.ir_version == model.before.ir_version


def test_it_has_no_more_nodes_than_the_best_rival_leaves(model):
    known = RIVALS.get(model.path.parent.name)
    if known is None:
        pytest.skip("not measured with rivals")
    assert count_nodes(model.file) <= known["best"]


def test_its_outputs_have_the_shapes_and_numbers_they_had(model):
    assert _alike(model.run(model.path, ALL_OFF), model.run(model.file, ALL_OFF))


def test_what_onnxruntime_fuses_in_it_stays_right(model):
    assert _alike(model.run(model.path, ALL_ON), model.run(model.file, ALL_ON))


@HAS_ZOO
def test_a_model_of_foreign_operators_passes_through_with_a_word():
    path = ZOO / "models" / FOREIGN / "model.onnx"
    result = onnxopt.optimize(path, bench=False)
    assert result.proto == onnx.load(path)
    assert any("nothing was changed" in note for note in result.report.notes)


def test_wrong_declared_output_shapes_do_not_become_real():
    # As ddddocr's models do: [1, 1] is declared, [frames, classes] comes out.
    text = """
        <ir_version: 7, opset_import: ["" : 11]>
        g (float[1,1,8,W] x) => (float[1,1] y, int64[1] codes)
        <int64[3] keep = {0, 0, -1}, int64[1] zero = {0}>
        {
            c = Conv(x, w)
            r = Relu(c)
            t = Transpose<perm = [0, 3, 1, 2]>(r)
            f = Reshape(t, keep)
            y = Squeeze<axes = [0]>(f)
            codes = ArgMax<axis = 1, keepdims = 0>(y)
        }
    """
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((3, 1, 8, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    result = onnxopt.optimize(model, bench=False)
    assert result.report.parity is not None and result.report.parity.passed
    assert not result.report.undone
    assert list(result.proto.graph.output) == list(model.graph.output)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(result.proto.SerializeToString(), options)
    y, codes = session.run(None, {"x": np.ones((1, 1, 8, 20), np.float32)})
    assert y.shape == (20, 3)
    assert codes.shape == (20,)


TASKS = [
    ("cifar10", "cifar_resnet20_ts", 0.0005),
    ("vad", "silero_vad_v6", 0.0),
    pytest.param("ocr", "ppocrv4_rec", 0.001, marks=SLOW),
    pytest.param("sick", "minilm_l6_sdpa_ts", 0.0005, marks=SLOW),
    pytest.param("imagenet", "effnet_lite0_dynamo", 0.004, marks=SLOW),
]


@HAS_ZOO
@pytest.mark.parametrize(("task", "name", "apart"), TASKS)
def test_it_is_as_good_at_its_task_as_it_was(task, name, apart, tmp_path):
    if not (ZOO / "data").is_dir():
        pytest.skip("the zoo came without data")
    path, file = ZOO / "models" / name / "model.onnx", tmp_path / "out.onnx"
    onnxopt.optimize(path, check=False, bench=False, output=file)
    score = _scorer().TASKS[task]
    before, after = (score(each, 1, ZOO / "data") for each in (path, file))
    assert abs(after - before) <= apart


def _scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_score", ZOO / "score.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _complaint(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises several unrelated classes
        return str(error)
    return ""


def _alike(expected: Any, found: Any) -> bool:
    """Equal structure, dtypes and shapes; floats equal to 1e-4 of the largest."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_alike, expected, found))
    if isinstance(expected, dict):
        return list(expected) == list(found) and all(
            _alike(np.float32(expected[key]), np.float32(found[key])) for key in expected
        )
    a, b = np.asarray(expected), np.asarray(found)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return bool(np.allclose(a, b, 0.0, 1e-6 + 1e-4 * scale, equal_nan=True))
