"""One test for each situation in which channels depend on each other."""

from __future__ import annotations

import numpy as np
from pruning import drawn, holds, prunable, shape_of, some_of

from onnxopt.prune.groups import find_groups


def test_chain() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            n = BatchNormalization(a, s, t, m, v)
            r = Relu(n)
            y = Conv<pads=[1,1,1,1]>(r, w2, b2)
        }""",
        w1=(6, 3, 3, 3), b1=6, s=6, t=6, m=6, v=np.ones(6, np.float32), w2=(4, 6, 3, 3), b2=4,
    )  # fmt: skip
    groups = find_groups(model)
    free = prunable(groups)
    assert [(group.size, group.kind) for group in free.values()] == [(6, "channels")]
    frozen = [(group.size, group.frozen) for group in groups if group.frozen]
    assert frozen == [(3, "they are the model's input 'x'"), (4, "they are the model's output 'y'")]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [3, 3, 3, 3] and shape_of(pruned, "w2") == [4, 3, 3, 3]


def test_residual() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,2] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, w2)
            c = Conv<pads=[1,1,1,1]>(b, w3)
            s = Add(a, c)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4, b4)
        }""",
        w1=(8, 3, 3, 3), w2=(6, 8, 3, 3), w3=(8, 6, 3, 3), w4=(2, 8), b4=2,
    )  # fmt: skip
    groups = find_groups(model)
    assert {group.size for group in prunable(groups).values()} == {6, 8}
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [4, 3, 3, 3] and shape_of(pruned, "w4") == [2, 4]


def test_depthwise() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,4,4] y) {
            a = Conv(x, w1)
            b = Conv<group=8, pads=[1,1,1,1], strides=[2,2]>(a, w2, b2)
            c = Clip(b, low, high)
            y = Conv(c, w3)
        }""",
        w1=(8, 3, 1, 1), w2=(8, 1, 3, 3), b2=8, w3=(4, 8, 1, 1),
        low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [8]
    pruned = holds(model, some_of(groups))
    assert pruned.graph[1].attributes["group"].as_int() == 4


def test_depthwise_with_a_multiplier() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            b = Conv<group=4, pads=[1,1,1,1]>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(4, 3, 1, 1), w2=(12, 1, 3, 3), b2=12, w3=(4, 12, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 4]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w2") == [2, 1, 3, 3]


def test_grouped() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            b = Conv<group=4, pads=[1,1,1,1]>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(12, 3, 1, 1), w2=(8, 3, 3, 3), b2=8, w3=(4, 8, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [2, 3, 4]
    pruned = holds(model, some_of(groups))
    assert pruned.graph[1].attributes["group"].as_int() == 2
    assert shape_of(pruned, "w2") == [2, 1, 3, 3]


def test_flatten_before_a_gemm() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,5] y) {
            a = Conv(x, w1)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            f = Flatten(p)
            y = Gemm(f, w2, b2)
        }""",
        w1=(6, 3, 1, 1), w2=(24, 5), b2=5,
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [6]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w2") == [12, 5]
