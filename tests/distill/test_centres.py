"""Weights are trained as if their inputs lay around zero, whatever an activation makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnxopt.distill.centres import centres
from onnxopt.distill.module import GraphModule
from onnxopt.distill.steps import Steps
from tests.distill.models import model

F = np.float32
RANDOM = np.random.default_rng(0)


def _normal(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(F)


CASES = {
    "convolution": ("c = Conv<pads = [1, 1, 1, 1]>(x, w, b)", (6, 4, 3, 3)),
    "grouped": ("c = Conv<group = 2>(x, w, b)", (6, 2, 3, 3)),
    "depthwise": ("c = Conv<group = 4>(x, w, b)", (4, 1, 3, 3)),
    "depthwise, two outputs a channel": ("c = Conv<group = 4>(x, w, b)", (8, 1, 3, 3)),
    "gemm": ("f = GlobalAveragePool(x) g = Flatten(f) c = Gemm(g, w, b)", (4, 6)),
    "gemm, transposed": (
        "f = GlobalAveragePool(x) g = Flatten(f) c = Gemm<transB = 1>(g, w, b)",
        (6, 4),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_moves_outputs_alike_wherever_the_inputs_lie(case: str) -> None:
    body, shape = CASES[case]
    rank = 4 if "Conv" in body else 2
    outputs = shape[0] if "Gemm(" not in body else shape[1]
    dims = "N,C,H,W" if rank == 4 else "N,C"
    net = model(
        f"g (float[N,4,5,5] x) => (float[{dims}] c) {{ {body} }}",
        {"w": _normal(*shape), "b": _normal(outputs)},
    )
    x = _normal(8, 4, 5, 5)
    x -= x.mean((0, 2, 3), keepdims=True)
    moves = []
    for away in (0.0, 50.0):
        module = GraphModule(net, ["c"], train=True)
        feed = {"x": x + F(away)}
        found = centres(net, module, feed)
        assert len(found) == 1
        steps = Steps(list(module.parameters()), 0.01, found)
        pads = "pads" in body
        before = module(module.tensors(feed))["c"]
        # The border of a padded convolution does see where its inputs lie.
        inner = before[..., 1:-1, 1:-1] if pads else before
        torch.manual_seed(0)
        (inner * torch.randn(inner.shape)).sum().backward()
        steps.take(0.01)
        after = module(module.tensors(feed))["c"]
        change = (after - before).detach()
        moves.append((change[..., 1:-1, 1:-1] if pads else change).numpy())
    np.testing.assert_allclose(moves[1], moves[0], atol=2e-3)


def test_a_weight_that_two_nodes_share_has_no_centre() -> None:
    net = model(
        "g (float[N,4] x) => (float[N,4] y) { h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, w, b) }",
        {"w": _normal(4, 4), "b": _normal(4)},
    )
    module = GraphModule(net, ["y"], train=True)
    assert centres(net, module, {"x": _normal(8, 4)}) == []
