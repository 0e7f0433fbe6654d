"""What pruning keeps apart to measure on is not learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxopt
from onnxopt import api_distill

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_mlp.onnx"


def test_distillation_behind_pruning_sees_no_sample_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = np.load(Path(__file__).parent / "digits.npz")
    rows = stored[stored.files[0]].reshape(-1, 64).astype(np.float32)[:50]
    seen: list[Any] = []
    real = api_distill.distill

    def distill(*args: Any, data: Any, **options: Any) -> Any:
        data = list(data)
        seen.extend(data)
        return real(*args, data=data, steps=2, batch=8, **options)

    monkeypatch.setattr(api_distill, "distill", distill)
    name = onnxopt.optimize(MODEL, bench=False).model.graph.inputs[0].name or ""
    onnxopt.prune(
        MODEL, data={name: rows}, macs=0.8, rounding=1, recover="distill", bench=False, threads=1
    )
    learned = np.concatenate([feed[name] for feed in seen])
    apart = rows[4::5]
    assert len(learned) == len(rows) - len(apart)
    assert not any((learned == row).all(axis=1).any() for row in apart)
