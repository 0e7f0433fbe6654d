"""Real models get feeds that run, from nothing but the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxopt import io
from onnxopt.check.data import read_data
from onnxopt.check.feeds import synthesize
from onnxopt.check.parity import Reference
from onnxopt.errors import RuntimeFailed
from onnxopt.runtime.sessions import Session

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
FOREIGN = "ort_supres_prepost"  # needs operators of onnxruntime-extensions
HUGE = {"light_vgg19"}  # fills 575 MB of weights anew in every run

MODELS = sorted((ROOT / "models").rglob("*.onnx"))
ZOO_MODELS = sorted(p for p in ZOO.glob("*/model.onnx") if p.parent.name not in {FOREIGN, *HUGE})


@pytest.mark.parametrize(
    "path", [*MODELS, *ZOO_MODELS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_real_model_runs_on_made_up_feeds(path):
    session = Session.open(path, optimize=False, threads=1)
    synthetic = synthesize(io.load(path), count=2)
    runs = list(synthetic.resolve(session.run))
    assert len(runs) == 2
    for _, outputs in runs:
        floats = [v for v in outputs if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        assert all(np.isfinite(v).all() for v in floats)


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not here")
@pytest.mark.parametrize("name", ["silero_vad_v6", "minilm_l6_sdpa_ts", "light_squeezenet"])
def test_the_inputs_a_real_model_came_with_are_one_feed(name):
    path = ZOO / name / "model.onnx"
    data = read_data(ZOO / name / "inputs.npz", io.load(path))
    found = Reference(path, data, threads=1).parity(path)
    assert found.passed
    assert found.runs == 1


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not here")
def test_a_model_of_foreign_operators_says_what_it_lacks():
    with pytest.raises(RuntimeFailed, match=r"com\.microsoft\.extensions") as caught:
        Reference(ZOO / FOREIGN / "model.onnx")
    assert "plain onnxruntime does not have" in caught.value.hint
