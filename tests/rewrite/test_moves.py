"""Every operator of the layout tables gives the same numbers in another layout, at no Transpose."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from casefile import parse
from test_cases import make_feeds, run

from onnxopt import registry
from onnxopt.config import Exactness
from onnxopt.passes import shapes
from onnxopt.rewrite import engine
from onnxopt.rewrite.axes import composed, inverse, is_identity
from onnxopt.rewrite.cut import Cut

SIZES = (2, 3, 4, 5)
PERMS = ((0, 2, 3, 1), (0, 3, 1, 2), (2, 0, 3, 1))

OPERATORS = {
    "Abs": "b = Abs(a)",
    "Add with a constant row": "r = Constant<value = float[5] {1,2,3,4,5}>() b = Add(a, r)",
    "ArgMax": "i = ArgMax<axis = 2, keepdims = 1>(a) b = Cast<to = 1>(i)",
    "Clip": "l = Constant<value_float = -1.0>() b = Clip(a, l)",
    "Concat": "c = Relu(a) b = Concat<axis = -2>(a, c)",
    "CumSum": "i = Constant<value_int = 1>() b = CumSum<reverse = 1>(a, i)",
    "Expand": "s = Constant<value_ints = [2,3,4,5]>() m = ReduceMax(a, k) b = Expand(m, s)",
    "Gather": "i = Constant<value_ints = [1,0]>() b = Gather<axis = 2>(a, i)",
    "LogSoftmax": "b = LogSoftmax<axis = 1>(a)",
    "LpNormalization": "b = LpNormalization<axis = 2>(a)",
    "Pad": "p = Constant<value_ints = [0,1,2,0,0,3,0,1]>() b = Pad(a, p)",
    "Pad of some axes": "p = Constant<value_ints = [1,2]>() b = Pad(a, p, , k)",
    "ReduceL2": "b = ReduceL2(a, k)",
    "ReduceSum": "b = ReduceSum<keepdims = 1>(a, k)",
    "Resize": "s = Constant<value_floats = [1.0,2.0,1.0,3.0]>() b = Resize(a, , s)",
    "Slice": "s = Constant<value_ints = [1]>() e = Constant<value_ints = [3]>()"
    " b = Slice(a, s, e, k)",
    "Slice without axes": "s = Constant<value_ints = [0,1]>() e = Constant<value_ints = [9,3]>()"
    " b = Slice(a, s, e)",
    "Split": "c, d = Split<axis = 2, num_outputs = 2>(a) b = Sub(c, d)",
    "Squeeze and Unsqueeze": "m = ReduceMean(a, k) s = Squeeze(m, k) u = Unsqueeze(s, k)"
    " b = Mul(a, u)",
    "Tile": "r = Constant<value_ints = [1,2,1,3]>() b = Tile(a, r)",
    "TopK": "n = Constant<value_ints = [2]>() b, i = TopK<axis = 2>(a, n)",
    "Where": "z = Constant<value_float = 0.0>() c = Less(a, z) b = Where(c, a, z)",
}


def moved(model: onnx.ModelProto) -> onnx.ModelProto:
    loaded = ir.from_proto(model)
    shapes.infer(loaded)
    engine.run(loaded, [[registry.rules()["move_transpose"]]])
    return ir.to_proto(loaded)


@pytest.mark.parametrize("perm", PERMS, ids=str)
@pytest.mark.parametrize("body", OPERATORS.values(), ids=OPERATORS)
def test_an_operator_between_two_transpositions_moves(body: str, perm: tuple[int, ...]) -> None:
    shape = [SIZES[axis] for axis in inverse(perm)]
    model = parse(
        f"g (float{shape} x) => (float[a,b,c,d] y) <int64[1] k = {{2}}>"
        f"{{ a = Transpose<perm = {list(perm)}>(x) {body}"
        f" y = Transpose<perm = {list(inverse(perm))}>(b) }}"
    )
    after = moved(model)
    assert "Transpose" not in {node.op_type for node in after.graph.node}
    onnx.checker.check_model(after, full_check=True)
    feeds = make_feeds(model, 0, Exactness.CLOSE)
    np.testing.assert_allclose(run(after, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "b = InstanceNormalization(a, r, r)",
        "b = BatchNormalization(a, r, r, r, r)",
        "c = GlobalMaxPool(a) b = Sub(a, c)",
    ],
    ids=lambda body: body.split(" = ")[1].split("(")[0],
)
def test_what_counts_on_its_channels_moves_where_they_stay(body: str) -> None:
    def between(perm: str, back: str, shape: str) -> onnx.ModelProto:
        return parse(
            f"g (float{shape} x) => (float[a,b,c,d] y) <float[3] r = {{1,2,3}}>"
            f"{{ a = Transpose<perm = {perm}>(x) {body} y = Transpose<perm = {back}>(b) }}"
        )

    swapped = between("[0,1,3,2]", "[0,1,3,2]", "[2,3,4,5]")
    after = moved(swapped)
    assert "Transpose" not in {node.op_type for node in after.graph.node}
    feeds = make_feeds(swapped, 0, Exactness.CLOSE)
    np.testing.assert_allclose(run(after, feeds)[0], run(swapped, feeds)[0], rtol=1e-5, atol=1e-6)
    last = moved(between("[0,3,1,2]", "[0,2,3,1]", "[2,4,5,3]"))
    assert [node.op_type for node in last.graph.node].count("Transpose") == 2


def test_a_permutation_and_its_inverse_cancel() -> None:
    for perm in permutations(range(4)):
        assert is_identity(composed(perm, inverse(perm)))


def test_a_chain_longer_than_the_stack_moves() -> None:
    lines = "".join(f" v{i + 1} = Relu(v{i})" for i in range(390))
    after = moved(
        parse(
            "g (float[2,3] x) => (float[2,3] y) { v0 = Transpose(x)"
            + lines
            + " y = Transpose(v390) }"
        )
    )
    assert [node.op_type for node in after.graph.node] == ["Relu"] * 390


def test_the_smallest_cut_is_found_and_the_smaller_side_is_given() -> None:
    cut = Cut("s", "t")
    for start, end, capacity in (
        ("s", "a", 3), ("s", "b", 2), ("a", "b", 1), ("a", "c", 1), ("b", "c", 2), ("c", "t", 3),
    ):  # fmt: skip
        cut.edge(start, end, capacity)
    cost, side = cut.solve()
    assert cost == 3
    assert side == {"s", "a", "b"}


def test_edges_in_both_directions_and_of_the_same_places_add_up() -> None:
    cut = Cut("s", "t")
    cut.edge("s", "a", 1)
    cut.edge("s", "a", 1)
    cut.edge("a", "s", 5)
    cut.edge("a", "t")
    assert cut.solve()[0] == 2
