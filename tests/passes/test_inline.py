"""Ifs whose branch is known before the model runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding import constants, fold, ops_of, same_answers

X = {"x": np.float32([1, -2])}


@pytest.mark.parametrize(("flag", "left"), [(1, "Relu"), (0, "Neg")])
def test_a_known_condition_leaves_the_branch_that_is_taken(flag: int, left: str) -> None:
    text = f"""g (float[2] x) => (float[2] y) <bool c = {{{flag}}}> {{
    t = If(c) <then_branch = a () => (float[2] p) {{ p = Relu(x) }},
               else_branch = b () => (float[2] q) {{ q = Neg(x) }}>
    y = Exp(t) }}"""
    folded, result = fold(text)
    assert ops_of(folded) == {"Exp": 1, left: 1} and result.hits == {"If inlined": 1}
    assert not folded.graph.initializer
    same_answers(text, folded, X)


def test_an_output_of_the_graph_keeps_its_name() -> None:
    text = """g (float[2] x) => (float[2] y) <bool c = {1}> {
    y = If(c) <then_branch = a () => (float[2] p) { p = Relu(x) },
               else_branch = b () => (float[2] q) { q = Neg(x) }> }"""
    folded, _ = fold(text)
    assert folded.graph.node[0].output[0] == "y" == folded.graph.output[0].name
    same_answers(text, folded, X)


def test_names_that_are_there_already_are_changed() -> None:
    text = """g (float[2] x, bool d) => (float[2] y, float[2] z) <bool c = {1}> {
    u = If(c) <then_branch = a () => (float[2] p) { t = Relu(x) p = Exp(t) },
               else_branch = b () => (float[2] q) { q = Neg(x) }>
    v = If(c) <then_branch = e () => (float[2] p) { t = Abs(x) p = Exp(t) },
               else_branch = f () => (float[2] q) { q = Neg(x) }>
    z = If(d) <then_branch = h () => (float[2] p) { t = Sin(x) p = Exp(t) },
               else_branch = i () => (float[2] q) { q = Neg(x) }>
    y = Add(u, v) }"""
    folded, _ = fold(text)
    names = [name for node in folded.graph.node for name in node.output]
    inner = [n.output[0] for n in folded.graph.node[-2].attribute[0].g.node]
    assert len(names) == len(set(names)) and not set(inner) & set(names)
    same_answers(text, folded, X | {"d": np.array(True)})


def test_weights_of_the_branch_move_along() -> None:
    text = """g (float[2] x) => (float[2] y) <bool c = {1}> {
    y = If(c) <then_branch = a () => (float[2] p) <float[2] w = {3, 4}> { p = Add(x, w) },
               else_branch = b () => (float[2] q) <float[2] w = {5, 6}> { q = Add(x, w) }> }"""
    folded, _ = fold(text)
    assert list(constants(folded)["w"]) == [3, 4] and len(constants(folded)) == 1
    same_answers(text, folded, X)
    old = '<ir_version: 3, opset_import: ["" : 9]>' + text.replace("<bool", "<bool", 1)
    old = old.replace("(float[2] x) =>", "(float[2] x, bool c) =>")
    assert fold(old)[0].graph.node[0].op_type == "Constant"


def test_a_branch_that_only_passes_a_value_on_gives_the_value() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] z) <bool c = {0}> {
    e = Exp(x)
    z = If(c) <then_branch = a () => (float[2] p) { p = Relu(x) },
               else_branch = b () => (float[2] q) { q = Identity(e) }>
    t = If(c) <then_branch = d () => (float[2] r) { r = Relu(x) },
               else_branch = f () => (float[2] s) <float[2] s = {7, 8}> { }>
    y = Add(e, t) }"""
    folded, _ = fold(text)
    assert "If" not in ops_of(folded)
    same_answers(text, folded, X)


def test_nested_ifs_are_inlined_from_the_inside() -> None:
    text = """g (float[2] x, bool d) => (float[2] y) <bool c = {1}> {
    y = If(d) <then_branch = a () => (float[2] p) {
      p = If(c) <then_branch = e () => (float[2] r) { r = Relu(x) },
                 else_branch = f () => (float[2] s) { s = Neg(x) }> },
      else_branch = b () => (float[2] q) { q = Abs(x) }> }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Abs": 1, "If": 1, "Relu": 1}
    for condition in (True, False):
        same_answers(text, folded, X | {"d": np.array(condition)})


def test_a_condition_on_a_known_rank_is_decided() -> None:
    text = """g (float[n,2] x) => (y) <int64 two = {2}> {
    s = Shape(x) r = Size(s) c = Equal(r, two)
    y = If(c) <then_branch = a () => (p) { p = Relu(x) },
               else_branch = b () => (q) { q = Neg(x) }> }"""
    folded, _ = fold(text)
    assert ops_of(folded) == {"Relu": 1}


FORCED = """g (float[n,4,t] x, float[1,8,4] w, float[1,8,2] r) => (y)
<int64[1] last = {{-1}}, int64[1] one = {{1}}, int64[1] zero = {{0}}> {{
s = Shape(x) d = Gather(s, last) c = Equal(d, one)
z = If(c) <then_branch = a () => (p) {{ p = Squeeze(x, last) }},
           else_branch = b () => (q) {{ q = Identity(x) }}>
{use} }}"""


def test_a_branch_after_which_a_layer_could_not_run_is_never_taken() -> None:
    text = FORCED.format(use="u = Unsqueeze(z, zero) y = LSTM<hidden_size = 2>(u, w, r)")
    folded, _ = fold(text)
    assert ops_of(folded) == {"LSTM": 1, "Squeeze": 1, "Unsqueeze": 1}
    feed = {
        "x": np.ones((3, 4, 1), np.float32),
        "w": np.ones((1, 8, 4), np.float32),
        "r": np.ones((1, 8, 2), np.float32),
    }
    same_answers(text, folded, feed)


def test_both_branches_stay_where_all_that_follows_can_run() -> None:
    text = FORCED.format(use="y = Relu(z)")
    assert ops_of(fold(text)[0])["If"] == 1


def test_an_if_in_a_function_is_inlined_with_constant_nodes() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[2] x) => (float[2] y) { y = own.f(x) }
    <domain: "own", opset_import: ["" : 21]> f (v) => (o) {
    c = Constant<value = bool {1}>()
    o = If(c) <then_branch = a () => (float[2] p) <float[2] w = {3, 4}> { p = Add(v, w) },
               else_branch = b () => (float[2] q) { q = Neg(v) }> }"""
    folded, _ = fold(text)
    assert [node.op_type for node in folded.functions[0].node] == ["Constant", "Add"]
    same_answers(text, folded, X)


def test_the_condition_and_what_it_was_made_from_go() -> None:
    text = """g (float[2] x) => (float[2] y) <int64 a = {1}, int64 b = {2}> {
    c = Less(a, b)
    y = If(c) <then_branch = t () => (float[2] p) { p = Relu(x) },
               else_branch = f () => (float[2] q) { q = Neg(x) }> }"""
    folded, _ = fold(text)
    assert [node.op_type for node in folded.graph.node] == ["Relu"]
    assert not folded.graph.initializer
    onnx.checker.check_model(folded)
