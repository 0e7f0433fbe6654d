"""Folding alone on real models: the same numbers at several sizes, within the budget, settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxopt import io
from onnxopt.check.parity import Reference
from onnxopt.config import Options
from onnxopt.passes import shapes
from onnxopt.passes.base import Context
from onnxopt.passes.fold import LEAST_BUDGET, FoldPass

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
FOREIGN = "ort_supres_prepost"  # needs operators of onnxruntime-extensions
HUGE = "light_vgg19"  # makes 575 MB of weights anew in every run

MODELS = sorted((ROOT / "models").rglob("*.onnx"))
ZOO_MODELS = sorted(p for p in ZOO.glob("*/model.onnx") if p.parent.name not in (FOREIGN, HUGE))

MOST_LEFT: Mapping[str, Mapping[str, int]] = {
    "bilstm_ts": {"Slice": 0, "ConstantOfShape": 0, "Shape": 0},
    "effnet_lite0_ts": {"Shape": 0, "Concat": 0, "Gather": 0},
    "minilm_l6_sdpa_ts": {"Shape": 5, "Concat": 1, "Transpose": 24, "Sqrt": 0},
    "ppocr_cls_v2": {"Shape": 0, "Concat": 0},
    "silero_vad_16k_op15": {"If": 0, "Shape": 0},
    "silero_vad_v6": {"If": 1, "Shape": 0},
    "ultraface_rfb_320": {"Shape": 0, "Gather": 0},
    "yunet_n_dynamic": {"Shape": 0, "Concat": 3},
}
"""What folding must leave at most of some operators."""


def folded(path: Path) -> tuple[ir.Model, ir.Model]:
    """The model as it came, and folded."""
    model = io.load(path)
    result = model.clone()
    FoldPass().run(result, Context(Options(), io.model_bytes(model)))
    return model, result


@pytest.mark.parametrize(
    "path", [*MODELS, *ZOO_MODELS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_real_model_means_the_same_after_folding(path: Path) -> None:
    model, result = folded(path)
    again = FoldPass().run(result, Context(Options(), io.model_bytes(model)))
    assert not again.changed
    shapes.restore(result)
    growth = io.model_bytes(result) - io.model_bytes(model)
    assert growth <= max(LEAST_BUDGET, 0.03 * io.model_bytes(model))
    parity = Reference(path, threads=1).parity(result)
    assert parity.passed, parity


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not here")
@pytest.mark.parametrize("name", sorted(MOST_LEFT))
def test_what_is_known_beforehand_is_gone(name: str) -> None:
    _, result = folded(ZOO / name / "model.onnx")
    found = [node.op_type for node in result.graph.all_nodes()]
    counted = {operator: found.count(operator) for operator in MOST_LEFT[name]}
    assert all(counted[operator] <= most for operator, most in MOST_LEFT[name].items()), counted


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not here")
def test_a_model_of_foreign_operators_passes_through() -> None:
    model, result = folded(ZOO / FOREIGN / "model.onnx")
    kinds = [(node.domain, node.op_type) for node in model.graph.all_nodes() if node.domain]
    assert kinds == [(n.domain, n.op_type) for n in result.graph.all_nodes() if n.domain]


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not here")
def test_generated_weights_are_not_written_out() -> None:
    model, result = folded(ZOO / HUGE / "model.onnx")
    shapes.restore(result)
    assert io.model_bytes(result) <= io.model_bytes(model) + LEAST_BUDGET
