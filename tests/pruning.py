"""What the tests of pruning share: models drawn as text, and the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper, parser

from onnxopt import io
from onnxopt.passes import shapes
from onnxopt.prune.apply import remove
from onnxopt.prune.groups import find_groups
from onnxopt.prune.oracle import zeroed
from onnxopt.prune.products import Product, products, separate
from onnxopt.prune.records import Group, Removal
from onnxopt.runtime.sessions import evaluate

RESIDUAL = """g (float[N,4,6,6] x) => (float[N,8,6,6] y) {
    [stem] a = Conv(x, w0, b0)
    [up] c0 = Conv<pads=[1,1,1,1]>(a, w1, b1)
    c = Relu(c0)
    [down] d = Conv(c, w2, b2)
    s = Add(a, d)
    [up2] e0 = Conv(s, w3, b3)
    e = Relu(e0)
    [down2] f = Conv<pads=[1,1,1,1]>(e, w4, b4)
    y = Add(s, f)
}"""


def drawn(text: str, opset: int = 20, **weights: Any) -> ir.Model:
    """A model from the text of its graph; `weights` are arrays, or shapes of random ones."""
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> {text}'
    )
    random = np.random.default_rng(0)
    for name, given in weights.items():
        array = given
        if isinstance(given, (tuple, int)):
            shape = given if isinstance(given, tuple) else (given,)
            array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{index}"
    model = io.load(proto)
    shapes.infer(model)
    return model


def loop() -> ir.Model:
    """A recurrent network whose state goes around in a Loop."""
    return drawn(
        """g (float[N,3] x, int64 times) => (float[N,2] y) {
            a = MatMul(x, w1)
            go = Constant<value = bool {1}>()
            b = Loop (times, go, a) <
                body = round (int64 i, bool on, float[N,16] s) => (bool still, float[N,16] r) {
                    still = Identity(on)  m = MatMul(s, w2)  r = Tanh(m)
                }
            >
            y = MatMul(b, w3)
        }""",
        w1=(3, 16), w2=(16, 16), w3=(16, 2),
    )  # fmt: skip


def as_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights in Constant nodes, as Paddle's exporter writes them."""
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def residual() -> tuple[ir.Model, tuple[Group, ...], dict[str, Product]]:
    """A stem with two branches that are added to it, its groups, and its products by name."""
    model = drawn(
        RESIDUAL, w0=(8, 4, 1, 1), b0=8, w1=(16, 8, 3, 3), b1=16, w2=(8, 16, 1, 1), b2=8,
        w3=(12, 8, 1, 1), b3=12, w4=(8, 12, 3, 3), b4=8,
    )  # fmt: skip
    separate(model)
    groups = find_groups(model)
    return model, groups, products(model, [group for group in groups if not group.frozen])


def prunable(groups: tuple[Group, ...]) -> dict[str, Group]:
    return {group.name: group for group in groups if not group.frozen}


def some_of(
    groups: tuple[Group, ...], ratio: float = 0.5, seed: int = 0, multiple: int = 1
) -> Removal:
    """A share of the channels of every group that may be pruned, at random, never all.

    Where a multiple is asked for, groups that can't be left with one are left alone.
    """
    random = np.random.default_rng(seed)
    found = {}
    for group in groups:
        count = min(max(1, round(group.size * ratio)), group.size - 1)
        if multiple > 1:
            left = round(group.size * (1 - ratio) / multiple) * multiple
            count = group.size - left if 0 < left < group.size else 0
        if not group.frozen and count:
            taken = random.choice(group.size, count, replace=False)
            found[group.name] = tuple(sorted(int(index) for index in taken))
    return found


def feeds_of(model: ir.Model, size: int = 2) -> dict[str, np.ndarray]:
    """Random inputs; open dims are of `size`."""
    random = np.random.default_rng(1)
    found = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        dims = [dim if isinstance(dim, int) else size for dim in value.shape]
        if value.dtype.is_integer():
            found[str(value.name)] = random.integers(0, 4, dims).astype(value.dtype.numpy())
        else:
            found[str(value.name)] = random.standard_normal(dims).astype(value.dtype.numpy())
    return found


def outputs_of(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    copy = model.clone()
    shapes.restore(copy)
    proto = io.to_proto(copy)
    onnx.checker.check_model(proto, full_check=True)
    return evaluate(proto, feeds)


def holds(model: ir.Model, removal: Removal, feeds: Any = None) -> ir.Model:
    """Assert that pruning gives what the original gives with zeros; the pruned model."""
    groups = find_groups(model)
    assert removal
    pruned = remove(model, groups, removal)
    feeds = feeds or feeds_of(model)
    expected = outputs_of(zeroed(model, groups, removal), feeds)
    found = outputs_of(pruned, feeds)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        scale = float(np.abs(array).max(initial=0)) + 1e-6
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * scale, err_msg=name)
    return pruned


def shape_of(model: ir.Model, name: str) -> list[int]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return list(tensor.shape.numpy())
