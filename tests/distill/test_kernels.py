"""A kernel gives what onnxruntime gives, or says in a clear word that it can't."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxopt import io
from onnxopt.distill.kernels import Untaught
from onnxopt.distill.module import GraphModule, missing_kernels
from tests import corpus

REFUSED_AT_MOST = 100
TAUGHT = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.BOOL,
}


def _outputs(model: Any) -> list[str]:
    return [value.name for value in model.graph.outputs]


def _cases() -> list[Any]:
    found = []
    for case in corpus.cases():
        if case.name.startswith("light/") or not case.deterministic():
            continue
        proto = case.model()
        ends = [*proto.graph.input, *proto.graph.output]
        if all(end.type.tensor_type.elem_type in TAUGHT for end in ends):
            model = io.load(proto)
            if not missing_kernels(model, _outputs(model)):
                found.append(case)
    return found


CASES = _cases()
REFUSED: collections.Counter[str] = collections.Counter()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kernel_gives_what_onnxruntime_gives(case: Any) -> None:
    feeds = case.feeds()
    expected = corpus.run(case.model(), feeds)
    if expected is None:
        pytest.skip("onnxruntime can't run it")
    model = io.load(case.model())
    try:
        module = GraphModule(model, _outputs(model))
        with torch.no_grad():
            found = module(module.tensors(feeds))
    except Untaught:
        REFUSED[case.name] += 1
        return
    for name, value in zip(_outputs(model), expected, strict=True):
        got = found[name].numpy()
        assert got.shape == np.shape(value), name
        np.testing.assert_allclose(
            got.astype(np.float64), np.asarray(value, np.float64), rtol=2e-3, atol=2e-4
        )


def test_few_uses_are_refused() -> None:
    assert len(CASES) > 500
    assert len(REFUSED) <= REFUSED_AT_MOST, sorted(REFUSED)
