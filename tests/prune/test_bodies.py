"""Channels through branches and loops."""

from __future__ import annotations

import numpy as np
from pruning import drawn, holds, loop, prunable, some_of

from onnxopt.prune.groups import find_groups


def test_both_branches_lose_the_same_channels() -> None:
    model = drawn(
        """g (float[N,3] x, bool c) => (float[N,2] y) {
            a = MatMul(x, w1)
            b = If (c) <
                then_branch = yes () => (float[N,8] t) { t0 = MatMul(a, w2)  t = Relu(t0) },
                else_branch = no () => (float[N,8] e) { e = Neg(a) }
            >
            y = MatMul(b, w3)
        }""",
        w1=(3, 8), w2=(8, 8), w3=(8, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert {group.size for group in prunable(groups).values()} == {8}
    removal = some_of(groups)
    for taken in (True, False):
        x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        holds(model, removal, {"x": x, "c": np.array(taken)})


def test_weights_inside_of_a_branch() -> None:
    model = drawn(
        """g (float[N,3] x, bool c) => (float[N,2] y) {
            y = If (c) <
                then_branch = yes () => (float[N,2] t) {
                    t0 = MatMul(x, w1)  t1 = Relu(t0)  t = MatMul(t1, w2)
                },
                else_branch = no () => (float[N,2] e) {
                    e0 = MatMul(x, w3)  e1 = Relu(e0)  e = MatMul(e1, w4)
                }
            >
        }""",
        w1=(3, 8), w2=(8, 2), w3=(3, 6), w4=(6, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [6, 8]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    holds(model, some_of(groups), {"x": x, "c": np.array(True)})


def test_a_value_that_two_branches_name_alike_stays() -> None:
    model = drawn(
        """g (float[N,3] x, bool c) => (float[N,2] y) {
            y = If (c) <
                then_branch = yes () => (float[N,2] t) { h = MatMul(x, w1)  t = MatMul(h, w2) },
                else_branch = no () => (float[N,2] e) { h = MatMul(x, w3)  e = MatMul(h, w4) }
            >
        }""",
        w1=(3, 8), w2=(8, 2), w3=(3, 6), w4=(6, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert not prunable(groups)
    assert any(group.frozen.startswith("two values are called 'h'") for group in groups)


def test_what_a_loop_carries() -> None:
    model = loop()
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [16]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    holds(model, some_of(groups), {"x": x, "times": np.array(3)})
