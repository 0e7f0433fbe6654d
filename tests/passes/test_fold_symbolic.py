"""Shape arithmetic over dynamic dims: what collapses, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
from folding import constants, fold, ops_of, same_answers

from onnxopt.passes.fold_symbolic import reshape_target
from onnxopt.passes.symbols import symbol

N, S = symbol("n"), symbol("s")


def array(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


HEADS = """g (float[batch,seq,384] x) => (float[batch,seq,12,32] y)
<int64 zero = {0}, int64 one = {1}, int64[1] ax = {0}, int64[1] h = {12}, int64[1] d = {32}>
{ s = Shape(x) b = Gather(s, zero) n = Gather(s, one) b1 = Unsqueeze(b, ax) n1 = Unsqueeze(n, ax)
  t = Concat<axis = 0>(b1, n1, h, d) y = Reshape(x, t) }"""


def test_a_computed_reshape_becomes_constants_that_copy_the_dynamic_dims() -> None:
    folded, _ = fold(HEADS)
    assert ops_of(folded) == {"Reshape": 1}
    assert [list(value) for value in constants(folded).values()] == [[0, 0, 12, 32]]
    same_answers(HEADS, folded, {"x": array(2, 5, 384)}, {"x": array(0, 5, 384)})


def test_arithmetic_on_dims_collapses_where_the_result_is_the_only_open_dim() -> None:
    text = """g (float[n,3,4] x) => (float[m,4] y)
    <int64 zero = {0}, int64[1] ax = {0}, int64 three = {3}, int64[1] four = {4}>
    { s = Shape(x) b = Gather(s, zero) p = Mul(b, three) u = Unsqueeze(p, ax)
      t = Concat<axis = 0>(u, four) y = Reshape(x, t) }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Reshape": 1}
    same_answers(text, folded, {"x": array(2, 3, 4)}, {"x": array(0, 3, 4)})


@pytest.mark.parametrize(
    ("source", "result", "wanted"),
    [
        ((N, S, 384), (N, S, 12, 32), [0, 0, 12, 32]),
        ((N, 12, 32), (12 * N, 32), [-1, 32]),
        ((2, 3, 4), (6, 4), [6, 4]),
        # The size of -1 is undefined beside a dim that is copied and may be zero.
        ((N, S, 4), (N, 4 * S), None),
        ((N + 1, S, 4), (N + 1, 4 * S), [0, -1]),
        ((N, S), (S, N), None),
        ((N, S), (2 * N, 3, S), None),
    ],
)
def test_which_constants_reshape_alike(
    source: tuple[object, ...], result: tuple[object, ...], wanted: list[int] | None
) -> None:
    assert reshape_target(source, result) == wanted  # type: ignore[arg-type]


def test_a_target_that_leaves_a_dim_open_itself_may_go_on_doing_so() -> None:
    text = """g (float[n,s,4] x) => (float[n,m] y)
    <int64[1] one = {1}, int64[1] zero = {0}, int64[1] open = {-1}>
    { s = Shape(x) b = Slice(s, zero, one) t = Concat<axis = 0>(b, open) y = Reshape(x, t) }"""
    folded, _ = fold(text)
    assert [list(value) for value in constants(folded).values()] == [[0, -1]]
    same_answers(text, folded, {"x": array(2, 3, 4)})


def test_a_reshape_to_its_own_shape_goes() -> None:
    text = """g (float[n,4] x, float[n,4] z) => (float[n,4] y)
    { s = Shape(z) r = Reshape(x, s) y = Relu(r) }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Relu": 1}
    same_answers(text, folded, {"x": array(3, 4), "z": array(3, 4)})


def test_shapes_that_are_not_proven_equal_are_kept_apart() -> None:
    text = """g (float[n,4] x, float[m,4] z) => (y) { s = Shape(z) y = Reshape(x, s) }"""
    assert ops_of(fold(text)[0]) == {"Reshape": 1}
    text = text.replace("n,4", "a,b").replace("m,4", "c,d")
    assert ops_of(fold(text)[0]) == {"Reshape": 1, "Shape": 1}


def test_an_explicit_zero_is_not_taken_for_a_copy() -> None:
    text = """g (float[n,0] x) => (y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] seven = {7}>
    { s = Shape(x) n = Slice(s, zero, one) t = Concat<axis = 0>(zero, seven, n)
      y = Reshape<allowzero = 1>(x, t) }"""
    folded, _ = fold(text)
    same_answers(text, folded, {"x": array(3, 0)})


FLAT = """g (float[n,4,s] x) => (y)
<int64[1] flat = {{-1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}>
{{ s = Shape(x) t = Concat<axis = 0>({target}) f = Reshape(x, flat) e = Unsqueeze(f, zero)
   r = Reshape(e, t) y = Relu(r) }}"""


@pytest.mark.parametrize(
    ("target", "left"), [("s, one", {"Relu": 1, "Reshape": 1}), ("s", {"Relu": 1})]
)
def test_a_reshape_reads_past_views_that_hide_its_dims(target: str, left: dict[str, int]) -> None:
    text = FLAT.format(target=target)
    folded, _ = fold(text)
    same_answers(text, folded, {"x": array(2, 4, 3)})
    assert ops_of(folded) == left


def test_an_expand_that_changes_nothing_goes_and_one_that_does_gets_ones() -> None:
    text = """g (float[n,1] x, float[n,1] z) => (float[n,1] y, float[n,4] w)
    <int64 zero = {0}, int64[1] ax = {0}, int64[1] four = {4}>
    { s = Shape(z) e = Expand(x, s) y = Relu(e)
      b = Gather(s, zero) u = Unsqueeze(b, ax) t = Concat<axis = 0>(u, four) w = Expand(x, t) }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Expand": 1, "Relu": 1}
    assert [list(value) for value in constants(folded).values()] == [[1, 4]]
    same_answers(text, folded, {"x": array(3, 1), "z": array(3, 1)})


def test_the_mask_of_an_exported_expand_is_decided() -> None:
    text = """g (float[n,1] x, float[n,1] z) => (float[n,1] y)
    <int64[1] two = {2}, int64[1] minus = {-1}>
    { s = Shape(z) o = ConstantOfShape<value = int64[1] {1}>(two) m = Mul(o, minus)
      q = Equal(s, m) t = Where(q, o, s) e = Expand(x, t) y = Relu(e) }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Relu": 1}
    same_answers(text, folded, {"x": array(3, 1), "z": array(3, 1)})


SLICE = """g (float[n,s] x) => (y)
<int64 one = {{1}}, int64[1] ax = {{0}}, int64[1] axis = {{1}}, int64[1] start = {{{start}}},
int64 less = {{{less}}}>
{{ s = Shape(x) d = Gather(s, one) e = Sub(d, less) u = Unsqueeze(e, ax)
  y = Slice(x, start, u, axis) }}"""


@pytest.mark.parametrize(("start", "less", "end"), [(0, 0, None), (1, 0, 2**63 - 1), (0, 1, -1)])
def test_slices_up_to_a_dim_get_constant_ends(start: int, less: int, end: int | None) -> None:
    text = SLICE.format(start=start, less=less)
    folded, _ = fold(text)
    same_answers(text, folded, {"x": array(2, 5)}, {"x": array(2, 1)}, {"x": array(2, 0)})
    ends = [list(value) for name, value in constants(folded).items() if name.endswith("known")]
    assert ends == ([] if end is None else [[end]])


def test_an_end_further_off_has_no_constant_that_means_the_same() -> None:
    text = SLICE.format(start=0, less=2)
    folded, _ = fold(text)
    assert ops_of(folded)["Sub"] == 1
    same_answers(text, folded, {"x": array(2, 5)}, {"x": array(2, 1)})


def test_a_tile_by_ones_goes() -> None:
    text = """g (float[n,4] x) => (y) <int64[2] ones = {1, 1}> { t = Tile(x, ones) y = Relu(t) }"""
    assert ops_of(fold(text)[0]) == {"Relu": 1}


def test_equal_symbolic_values_are_read_from_one_place() -> None:
    text = """g (float[n,4] x) => (float[n,2] y, int64[1] z)
    <int64 zero = {0}, int64[1] ax = {0}, int64[1] two = {2}>
    { a = Relu(x) s = Shape(x) r = Shape(a) m = Gather(s, zero) k = Gather(r, zero)
      p = Unsqueeze(m, ax) q = Unsqueeze(k, ax) t = Concat<axis = 0>(q, two)
      y = ConstantOfShape(t) z = Neg(p) }"""
    folded, result = fold(text)
    assert ops_of(folded)["Shape"] == ops_of(folded)["Gather"] == 1
    assert result.hits["equal shapes merged"] > 0
    same_answers(text, folded, {"x": array(3, 4)})


def test_values_of_one_branch_are_not_read_from_the_other() -> None:
    text = """g (float[n,4] x, bool c) => (y) {
    y = If(c) <then_branch = a () => (p) { s = Shape(x) p = Neg(s) },
               else_branch = b () => (q) { t = Shape(x) q = Abs(t) }> }"""
    folded, _ = fold(text)
    for condition in (True, False):
        same_answers(text, folded, {"x": array(3, 4), "c": np.array(condition)})


def test_recurrent_layers_start_from_zeros_anyway() -> None:
    text = """g (float[t,b,1] x, float[1,8,1] w, float[1,8,2] r) => (y)
    <int64 one = {1}, int64[1] ax = {0}, int64[1] two = {2}>
    { s = Shape(x) b = Gather(s, one) u = Unsqueeze(b, ax) z = Concat<axis = 0>(ax1, u, two)
      h = ConstantOfShape(z) y = LSTM<hidden_size = 2>(x, w, r, , , h, h) }""".replace(
        "ax = {0}", "ax = {0}, int64[1] ax1 = {1}"
    )
    folded, _ = fold(text)
    assert ops_of(folded) == {"LSTM": 1}
    feed = {"x": array(3, 2, 1), "w": array(1, 8, 1) / 8, "r": array(1, 8, 2) / 8}
    same_answers(text, folded, feed)
    filled = text.replace("ConstantOfShape(z)", "ConstantOfShape<value = float[1] {0.5}>(z)")
    assert ops_of(fold(filled)[0])["ConstantOfShape"] == 1


def test_dynamic_dims_of_the_interface_stay_dynamic() -> None:
    folded, _ = fold(HEADS)
    shape = folded.graph.output[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", "seq", 12, 32]
