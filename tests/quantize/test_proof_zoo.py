"""On real models: what is planned in integers runs in integers, or the proof says why not.

The models of `../shared/zoo` where it is there, and those of `models/`. Samples are those beside a
model or made up: where nodes run does not depend on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import reads_the_table

from onnxopt import registry
from onnxopt.api import optimize
from onnxopt.check.feeds import synthesize
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize.calibrate import collect
from onnxopt.quantize.proof import prove
from onnxopt.quantize.reasons import rule_names
from onnxopt.quantize.subject import name_nodes, refuse
from onnxopt.quantize.weights import Statistics
from onnxopt.quantize.workshop import Workshop

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
# The same network again, or made of weights that are computed.
LEFT_OUT = {"cifar_resnet56_dynamo", "effnet_lite0_dynamo", "light_vgg19", "light_resnet50"}
FOREIGN = "ort_supres_prepost"  # needs operators of onnxruntime-extensions

pytestmark = reads_the_table


def models() -> list[Any]:
    found = {path.parent.name: path for path in sorted(ZOO.glob("*/model.onnx"))}
    found |= {f"models/{path.stem}": path for path in sorted((ROOT / "models").glob("*.onnx"))}
    return [
        pytest.param(path, id=name)
        for name, path in found.items()
        if name not in LEFT_OUT and name != FOREIGN
    ]


def samples(path: Path, model: ir.Model) -> list[dict[str, Any]]:
    stored = path.with_name("inputs.npz")
    if stored.is_file():
        with np.load(stored, allow_pickle=True) as arrays:
            return [{name.replace("__SL__", "/"): arrays[name] for name in arrays.files}]
    return [dict(feed) for feed in synthesize(model, count=1)]


@pytest.mark.parametrize("path", models())
def test_no_planned_node_stays_float_without_a_named_reason(path: Path) -> None:
    model = optimize(path, check=False, bench=False).model
    if model.opset_imports.get("", 13) < 13:
        model = optimize(path, check=False, bench=False, opset=13).model
    try:
        refuse(model)
        work = model.clone()
        name_nodes(work)
        shapes.infer(work)
        ranges = collect(work, samples(path, model), threads=1)
    except BadInput as error:
        pytest.skip(f"nothing to quantize: {error.message}")
    specs = registry.quant_specs()
    shop = Workshop(work, specs, Statistics(ranges, {}, []), "cpu", (), threads=1, eager=True)
    plan = shop.plan()
    planned = {choice.node for choice in plan.nodes if choice.quantize}
    assert all(choice.reason for choice in plan.nodes)
    if not planned:
        pytest.skip("nothing to quantize: no node has an integer kernel that pays")
    proof = prove(shop.build(plan, correct=False))
    named = set(rule_names()) - {"declined"}
    unexplained = [node for node in proof.stayed_float if node.rule not in named]
    assert unexplained == []
    assert [node for node in proof.stayed_float if node.name in planned] == []
    assert planned & {node.name for node in proof.integer}
