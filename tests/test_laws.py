"""Laws that hold for every model: parity, interface, rest, accounting, determinism.

Models are generated: layers of operators that rules know, wired at random over a few live tensors
of one image shape and one row shape, with constants that invite folding.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_cases import run

import onnxopt

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
CHANNELS = 4
UNARY = ("Relu", "Identity", "Sigmoid", "Abs", "Neg", "Dropout", "HardSigmoid", "LeakyRelu")
STEPS = (
    "unary", "conv", "norm", "affine", "residual", "reshape", "transpose", "pad", "slice",
    "concat", "clip", "cast", "pool", "swish", "mean", "split", "shape",
)  # fmt: skip


class Maker:
    """Grows a graph step by step; every choice comes from hypothesis."""

    def __init__(self, draw: Any, dynamic: bool) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.live = ["x"]
        self.random = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.batch: Any = "N" if dynamic else 2

    def name(self, stem: str) -> str:
        return f"{stem}_{len(self.nodes)}_{len(self.constants)}"

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{self.name(op_type.lower())}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, names[0], **attributes))
        return names[0]

    def pick(self) -> str:
        return self.draw(st.sampled_from(self.live[-3:]))

    def step(self, kind: str) -> None:
        self.live.append(getattr(self, kind)(self.pick()))

    def normal(self, *shape: int) -> Any:
        return self.random.standard_normal(shape)

    def unary(self, x: str) -> str:
        return self.node(self.draw(st.sampled_from(UNARY)), x)

    def conv(self, x: str) -> str:
        weight = self.constant(self.normal(CHANNELS, CHANNELS, 3, 3) * 0.2)
        bias = [self.constant(self.normal(CHANNELS))] if self.draw(st.booleans()) else []
        return self.node("Conv", x, weight, *bias, pads=[1, 1, 1, 1])

    def norm(self, x: str) -> str:
        rows = [self.constant(self.normal(CHANNELS)) for _ in range(3)]
        spread = self.constant(self.normal(CHANNELS) ** 2 + 0.1)
        return self.node("BatchNormalization", x, *rows, spread)

    def affine(self, x: str) -> str:
        op_type = self.draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
        shape = self.draw(st.sampled_from([(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1)]))
        number = self.draw(st.sampled_from([0.0, 1.0, None]))
        if number is None or (op_type == "Div" and number == 0.0):
            value = np.abs(self.normal(*shape)) + 0.5
        else:
            value = np.full(shape, number)
        return self.node(op_type, x, self.constant(value))

    def residual(self, x: str) -> str:
        return self.node("Add", x, self.pick())

    def reshape(self, x: str) -> str:
        flat = self.node("Reshape", x, self.constant([0, CHANNELS, -1], np.int64))
        return self.node("Reshape", flat, self.constant([0, CHANNELS, 6, 6], np.int64))

    def transpose(self, x: str) -> str:
        turned = self.node("Transpose", x, perm=[0, 2, 3, 1])
        middle = self.unary(turned) if self.draw(st.booleans()) else turned
        return self.node("Transpose", middle, perm=[0, 3, 1, 2])

    def pad(self, x: str) -> str:
        size = self.draw(st.integers(0, 1))
        padded = self.node("Pad", x, self.constant([0, 0, size, size, 0, 0, size, size], np.int64))
        if size == 0:
            return padded
        weight = self.constant(self.normal(CHANNELS, CHANNELS, 3, 3) * 0.2)
        return self.node("Conv", padded, weight)

    def slice(self, x: str) -> str:
        ends = self.constant([2**31 - 1, 6], np.int64)
        return self.node(
            "Slice", x, self.constant([0, 0], np.int64), ends, self.constant([1, 2], np.int64)
        )

    def concat(self, x: str) -> str:
        joined = self.node("Concat", x, self.pick(), axis=1)
        weight = self.constant(self.normal(CHANNELS, 2 * CHANNELS, 1, 1) * 0.3)
        return self.node("Conv", joined, weight)

    def clip(self, x: str) -> str:
        low = self.node("Max", x, self.constant(-1.0))
        return self.node("Min", low, self.constant(2.0))

    def cast(self, x: str) -> str:
        wide = self.node("Cast", x, to=TensorProto.DOUBLE)
        return self.node("Cast", wide, to=TensorProto.FLOAT)

    def pool(self, x: str) -> str:
        op_type = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        size = self.draw(st.sampled_from([1, 3]))
        side = size // 2
        return self.node(op_type, x, kernel_shape=[size, size], pads=[side] * 4)

    def swish(self, x: str) -> str:
        shifted = self.node("Add", x, self.constant(3.0))
        gate = self.node("Clip", shifted, self.constant(0.0), self.constant(6.0))
        return self.node("Div", self.node("Mul", x, gate), self.constant(6.0))

    def mean(self, x: str) -> str:
        axes = self.constant([2, 3], np.int64)
        gate = self.node("Sigmoid", self.node("ReduceMean", x, axes, keepdims=1))
        return self.node("Mul", x, gate)

    def split(self, x: str) -> str:
        first = self.node("Split", x, self.constant([1, CHANNELS - 1], np.int64), outputs=2, axis=1)
        return self.node("Concat", first, first[:-1] + "1", axis=1)

    def shape(self, x: str) -> str:
        shape = self.node("Shape", x)
        head = self.node("Gather", shape, self.constant([0], np.int64))
        target = self.node("Concat", head, self.constant([CHANNELS, 36], np.int64), axis=0)
        flat = self.node("Reshape", x, target)
        return self.node("Reshape", flat, shape)

    def model(self) -> onnx.ModelProto:
        dims = [self.batch, CHANNELS, 6, 6]
        outputs = list(dict.fromkeys([self.live[-1], *self.live[1:2]]))
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    maker = Maker(draw, draw(st.booleans()))
    for kind in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=9)):
        maker.step(kind)
    return maker.model()


def feeds() -> dict[str, Any]:
    return {"x": np.random.default_rng(3).standard_normal((2, CHANNELS, 6, 6), np.float32)}


def hits(report: Any) -> dict[str, int]:
    """What fired in the steps that were kept."""
    kept = [step for step in report.steps if step.verdict == "kept"]
    return {name: count for step in kept for name, count in step.hits.items()}


def optimized(model: onnx.ModelProto, **keywords: Any) -> onnxopt.Result:
    return onnxopt.optimize(model, check=False, bench=False, **keywords)


@SETTINGS
@given(models())
def test_numbers_and_interface_stay(model: onnx.ModelProto) -> None:
    result = optimized(model)
    proto = result.proto
    assert [step.reason for step in result.report.undone] == []
    onnx.checker.check_model(proto, full_check=True)
    assert list(proto.graph.input) == list(model.graph.input)
    assert list(proto.graph.output) == list(model.graph.output)
    for wanted, found in zip(run(model, feeds()), run(proto, feeds()), strict=True):
        scale = float(np.max(np.abs(wanted), initial=1e-3))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * scale)


@SETTINGS
@given(models())
def test_exact_level_keeps_every_number(model: onnx.ModelProto) -> None:
    proto = optimized(model, level="exact", disable=["fold"]).proto
    for wanted, found in zip(run(model, feeds()), run(proto, feeds()), strict=True):
        np.testing.assert_array_equal(found, wanted)


@SETTINGS
@given(models())
def test_a_second_run_finds_nothing(model: onnx.ModelProto) -> None:
    first = optimized(model)
    second = optimized(first.proto)
    assert hits(second.report) == {}
    assert second.proto.SerializeToString(deterministic=True) == first.proto.SerializeToString(
        deterministic=True
    )


@SETTINGS
@given(models())
def test_nodes_never_grow_and_hits_account_for_the_change(model: onnx.ModelProto) -> None:
    result = optimized(model)
    report = result.report
    assert report.after.nodes <= report.before.nodes
    assert bool(hits(report)) == any(step.changed for step in report.steps)
    if not hits(report):
        assert result.proto.graph == model.graph


@SETTINGS
@given(models(), st.randoms(use_true_random=False))
def test_the_order_of_independent_nodes_does_not_matter(
    model: onnx.ModelProto, shuffler: Any
) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    nodes, done, order = list(other.graph.node), {"x", ""}, []
    done |= {tensor.name for tensor in other.graph.initializer}
    while nodes:
        ready = [node for node in nodes if set(node.input) <= done]
        node = shuffler.choice(ready)
        order.append(node)
        done |= set(node.output)
        nodes.remove(node)
    del other.graph.node[:]
    other.graph.node.extend(order)
    counts = [optimized(each).report.after.nodes for each in (model, other)]
    assert counts[0] == counts[1]


SCRIPT = """
import hashlib, sys, onnxopt
result = onnxopt.optimize(sys.argv[1], check=False, bench=False)
print(hashlib.sha256(result.proto.SerializeToString()).hexdigest())
result.save(sys.argv[2])
"""


@pytest.mark.parametrize("name", ["cifar_resnet20", "silero_vad"])
def test_bytes_do_not_depend_on_the_hash_seed(name: str, tmp_path: Path) -> None:
    found = sorted((Path(__file__).parents[1] / "models").glob(f"{name}*.onnx"))
    if not found:
        pytest.skip(f"models/ has no {name}")
    digests = set()
    for seed in ("0", "1", "31337"):
        out = tmp_path / f"{seed}.onnx"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(found[0]), str(out)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        digests.add((done.stdout, hashlib.sha256(out.read_bytes()).hexdigest()))
    assert len(digests) == 1
