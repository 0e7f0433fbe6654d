"""Real models run in torch as they run in onnxruntime, or say which operator is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxopt import io
from onnxopt.check.feeds import synthesize
from onnxopt.distill.kernels import Untaught
from onnxopt.distill.module import GraphModule, missing_kernels
from onnxopt.errors import BadInput
from onnxopt.runtime.sessions import Session
from tests.distill.models import classifier, model

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
# The first takes gigabytes; in the other all weights are one number, and a rounding decides.
LEFT_OUT = {"light_vgg19", "light_squeezenet"}
UNTAUGHT = {
    "iris_logreg": "ai.onnx.ml.LinearClassifier",
    "breast_cancer_lgbm": "ai.onnx.ml.TreeEnsembleClassifier",
    "lgbm_breast_cancer": "ai.onnx.ml.TreeEnsembleClassifier",
    "loop_rnn_decoder_ts": "Loop",
    "onnxsimple_sequence_model1": "SequenceAt",
    "ort_logreg_iris": "ai.onnx.ml.LinearClassifier",
    "ort_supres_prepost": "com.microsoft.extensions.DecodeImage",
    "skl_digits_knn_scan": "Scan",
    "skl_digits_rf_zipmap": "ai.onnx.ml.TreeEnsembleClassifier",
    "skl_digits_svc": "ai.onnx.ml.SVMClassifier",
}


def _models() -> list[Any]:
    zoo = {path.parent.name: path for path in sorted(ZOO.glob("*/model.onnx"))}
    own = {f"models/{path.stem}": path for path in sorted((ROOT / "models").glob("*.onnx"))}
    return [
        pytest.param(path, id=name) for name, path in (own | zoo).items() if name not in LEFT_OUT
    ]


@pytest.mark.parametrize("path", _models())
def test_a_real_model_gives_in_torch_what_it_gives_in_onnxruntime(path: Path) -> None:
    graph = io.load(path)
    names = [value.name or "" for value in graph.graph.outputs]
    known = [name for name in names if not missing_kernels(graph, [name])]
    missing = UNTAUGHT.get(path.parent.name if path.name == "model.onnx" else path.stem)
    if missing is not None:
        assert not known
        with pytest.raises(Untaught, match=missing):
            GraphModule(graph, names)
        return
    session = Session.open(graph, optimize=False, threads=1)
    module = GraphModule(graph, known, train=True)
    for feed in synthesize(graph, count=2):
        with torch.no_grad():
            found = module(module.tensors(feed))
        for name, value in zip(known, session.run(feed, known), strict=True):
            scale = float(np.abs(value).max()) if value.size else 0.0
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name].numpy(), value, rtol=0, atol=1e-5 + 2e-4 * scale)


def test_only_what_an_output_needs_has_to_have_kernels() -> None:
    graph = io.load(ROOT / "models" / "digits_mlp.onnx")
    assert not missing_kernels(graph, ["probabilities"])
    with pytest.raises(Untaught, match=r"no torch kernel for ai.onnx.ml.ArrayFeatureExtractor \(1"):
        GraphModule(graph, ["label"])


def test_a_use_that_no_kernel_computes_is_named_with_its_node() -> None:
    graph = model(
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y)"
        "{ y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x) }",
        {},
    )
    module = GraphModule(graph, ["y"])
    with pytest.raises(Untaught, match="'y' \\(AveragePool\\) can't be trained through"):
        module(module.tensors({"x": np.ones((1, 1, 4, 4), np.float32)}))


def test_a_value_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="no value 'nowhere'"):
        GraphModule(classifier(4, seed=0), ["nowhere"])


def test_an_inner_value_can_be_asked_for() -> None:
    graph = classifier(4, seed=0)
    module = GraphModule(graph, ["r", "y"])
    found = module(module.tensors({"x": np.ones((2, 8), np.float32)}))
    assert found["r"].shape == (2, 4) and found["y"].shape == (2, 3)


def test_what_rests_on_constants_alone_is_computed_once() -> None:
    graph = model(
        "g (float[n,4] x) => (float[n,4] y){ s = Sqrt(v)  e = Exp(s)  y = Mul(x, e) }",
        {"v": np.ones((1, 1), np.float32)},
    )
    module = GraphModule(graph, ["y"])
    assert [step.node.op_type for step in module._program.steps] == ["Mul"]
