"""Accuracy on data that quantization has not seen, where the zoo lies beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.runtime.sessions import Session

ZOO = Path(__file__).resolve().parents[3] / "shared" / "zoo"
MODEL = ZOO / "models" / "cifar_resnet20_ts" / "model.onnx"
CIFAR = ZOO / "data" / "cifar10"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the zoo is not here")


def images(pixels: Any) -> Any:
    """uint8 [N,32,32,3] as the network was trained on: float32 [N,3,32,32]."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    return ((pixels.astype(np.float32) / 255 - mean) / deviation).transpose(0, 3, 1, 2).copy()


@pytest.fixture(scope="module")
def quantized() -> QuantizeResult:
    stored = np.load(CIFAR / "calibration.npz")
    # The rows lie in the order of their classes.
    calibration = images(stored[stored.files[0]][::10])
    return quantize(MODEL, data={"input": calibration}, bench=False, threads=1)


def test_the_plain_command_keeps_the_classes_of_unseen_pictures(
    quantized: QuantizeResult,
) -> None:
    stored = np.load(CIFAR / "test.npz")
    pictures, labels = images(stored["images"]), stored["labels"]
    batches = [pictures[i : i + 50] for i in range(0, len(pictures), 50)]
    scores = []
    for model in (MODEL, quantized.model):
        session = Session.open(model, optimize=True, threads=1)
        scores.append(np.concatenate([session.run({"input": each})[0] for each in batches]))
    before, after = (each.argmax(axis=1) for each in scores)
    assert quantized.report.verdict == "int8"
    assert np.mean(before == after) >= 0.985
    assert np.mean(after == labels) >= np.mean(before == labels) - 0.005
    noise = np.square(scores[1] - scores[0]).sum()
    assert 10 * np.log10(np.square(scores[0]).sum() / noise) >= 22


def test_every_planned_node_of_it_runs_in_integers(quantized: QuantizeResult) -> None:
    assert quantized.report.not_integer == ()
    kernels = [layer.kernel for layer in quantized.report.layers]
    assert kernels.count("QLinearConv") >= 8
