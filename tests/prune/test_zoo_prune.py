"""Real models, pruned: they load and run, the oracle holds, the interface stays.

`models/` is always tested, the zoo beside the repository where it is there: each model at one of
the ratios, at all of them with ONNXOPT_SLOW=1.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pruning import outputs_of, some_of

import onnxopt
from onnxopt import io
from onnxopt.bench.cost import cost_at
from onnxopt.check.feeds import synthesize
from onnxopt.passes import shapes
from onnxopt.prune.apply import remove
from onnxopt.prune.groups import find_groups
from onnxopt.prune.oracle import zeroed
from onnxopt.prune.records import Group

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
HAS_ZOO = pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo is not beside the repository")
RATIOS = (0.1, 0.3, 0.5)
MULTIPLES = (1, 4, 8)
NAMES = (
    "bilstm_ts", "cifar_resnet20_ts", "cifar_resnet56_dynamo", "effnet_lite0_ts",
    "light_squeezenet", "magika_fast_v2_1", "minilm_l6_sdpa_ts", "ort_mnist_cntk",
    "ppocr_cls_v2", "ppocrv4_det", "ppocrv4_rec", "silero_vad_op18_ifless", "silero_vad_v6",
    "skl_digits_mlp", "surfaces_gbr", "ultraface_rfb_320_simplified", "yunet_n_dynamic",
)  # fmt: skip
TWINS = (
    "cifar_resnet20_dynamo", "cifar_resnet56_ts", "effnet_lite0_dynamo", "light_resnet50",
    "light_shufflenet", "light_vgg19", "silero_vad_16k_op15", "ultraface_rfb_320",
)  # fmt: skip
EVERY = bool(os.environ.get("ONNXOPT_SLOW"))


def _cases() -> list[Any]:
    paths = [ZOO / name / "model.onnx" for name in (*NAMES, *(TWINS if EVERY else ()))]
    cases = []
    for index, path in enumerate(paths):
        for at in range(3) if EVERY else (index % 3,):
            label = f"{path.parent.name}-{RATIOS[at]}"
            cases.append(pytest.param(path, at, id=label, marks=HAS_ZOO))
    own = sorted((ROOT / "models").glob("*.onnx"))
    return [*cases, *(pytest.param(path, 1, id=path.stem) for path in own)]


@functools.lru_cache(maxsize=1)
def _optimized(path: Path) -> tuple[ir.Model, tuple[Group, ...]]:
    result = onnxopt.optimize(path, freeze_inputs=True, check=False, bench=False)
    model = io.load(result.proto)
    shapes.infer(model)
    return model, find_groups(model)


def _feed(path: Path) -> dict[str, Any]:
    stored = path.with_name("inputs.npz")
    if stored.is_file():
        arrays = np.load(stored)
        return {name.replace("__SL__", "/"): arrays[name] for name in arrays.files}
    return dict(next(iter(synthesize(io.load(path), count=1))))


def _interface(model: ir.Model) -> list[str]:
    # Weights that an old file lists as inputs are not what a caller gives.
    given = (value for value in model.graph.inputs if not value.is_initializer())
    values = (*given, *model.graph.outputs)
    return [f"{value.name} {value.type} {shapes.declared(value)[1]}" for value in values]


@pytest.mark.parametrize(("path", "at"), _cases())
def test_a_real_model_pruned_gives_what_zeros_give(path: Path, at: int) -> None:
    model, groups = _optimized(path)
    # A group that a multiple leaves nothing of is left alone.
    removal = some_of(groups, RATIOS[at], seed=at, multiple=MULTIPLES[at])
    if not removal:
        removal = some_of(groups, RATIOS[at], seed=at)
    if not any(not group.frozen for group in groups):
        pytest.skip("nothing to prune")
    pruned = remove(model, groups, removal)
    assert _interface(pruned) == _interface(model)
    assert io.model_bytes(pruned) < io.model_bytes(model)
    feed = _feed(path)
    expected, found = outputs_of(zeroed(model, groups, removal), feed), outputs_of(pruned, feed)
    for name, array in expected.items():
        if np.issubdtype(np.asarray(array).dtype, np.floating):
            # A saturated sigmoid has steps of 3e-8 and next to nothing else.
            largest = float(np.abs(array).max(initial=0))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-4 * largest + 1e-6)


@pytest.mark.parametrize("name", ["cifar_resnet20_ts", "ppocr_cls_v2", "yunet_n_dynamic"])
@HAS_ZOO
def test_nine_tenths_of_the_work_of_a_convolutional_network_can_go(name: str) -> None:
    model, groups = _optimized(ZOO / name / "model.onnx")
    whole = cost_at(model).macs
    smallest = {group.name: tuple(range(1, group.size)) for group in groups if not group.frozen}
    left = cost_at(remove(model, groups, smallest)).macs
    assert whole is not None and left is not None and left < 0.1 * whole
    assert all(len(group.frozen) > 20 for group in groups if group.frozen)
