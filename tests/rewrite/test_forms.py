"""Parameters that moved from attributes to inputs are read and written in every opset."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.rewrite import forms
from onnxopt.rewrite.build import NewOutput, RewriteBuilder
from onnxopt.rewrite.hit import NodeView, Unmatched


def last_node(text: str) -> NodeView:
    return NodeView(list(ir.from_proto(parse(text)).graph)[-1])


def test_slice_bounds_as_attributes_and_as_inputs() -> None:
    old = last_node("""<ir_version: 4, opset_import: ["" : 9]>
        g (float[4,6] x) => (float[4,2] y)
        { y = Slice<axes = [-1], starts = [1], ends = [3]>(x) }""")
    new = last_node("""g (float[4,6] x) => (float[4,2] y)
        <int64[1] s = {1}, int64[1] e = {-1}, int64[1] a = {1}, int64[1] t = {2}>
        { y = Slice(x, s, e, a, t) }""")
    assert forms.parts(old) == [forms.Part(1, 1, 3)]
    assert forms.parts(new) == [forms.Part(1, 1, -1, 2)]


def test_a_bound_of_run_time_is_not_read() -> None:
    node = last_node("""g (float[4] x, int64[1] s) => (float[N] y) <int64[1] e = {3}>
        { y = Slice(x, s, e) }""")
    with pytest.raises(Unmatched):
        forms.parts(node)


def test_pads_of_some_axes() -> None:
    node = last_node("""g (float[1,2,3] x) => (float[1,2,6] y)
        <int64[2] p = {1,2}, int64[1] a = {-1}> { y = Pad(x, p, , a) }""")
    assert forms.pads(node) == ([0, 0, 1], [0, 0, 2])


@pytest.mark.parametrize(
    ("node", "bounds"),
    [
        ("y = Clip(x)", (None, None)),
        ("y = Clip(x, l)", (0.0, None)),
        ("y = Clip(x, , h)", (None, 6.0)),
    ],
)
def test_bounds_of_a_clip(node: str, bounds: tuple[float | None, float | None]) -> None:
    text = f"g (float[2] x) => (float[2] y) <float l = {{0}}, float h = {{6}}> {{ {node} }}"
    assert forms.bounds(last_node(text)) == bounds


def test_default_attributes_of_a_clip_are_no_bounds() -> None:
    node = last_node("""<ir_version: 4, opset_import: ["" : 9]>
        g (float[2] x) => (float[2] y) { y = Clip<max = 6.0>(x) }""")
    assert forms.bounds(node) == (None, 6.0)


@pytest.mark.parametrize(
    ("op_type", "opset", "as_input"),
    [
        ("Squeeze", 11, False),
        ("Squeeze", 13, True),
        ("ReduceSum", 13, True),
        ("ReduceMean", 17, False),
        ("ReduceMean", 18, True),
    ],
)
def test_axes_are_written_as_the_opset_wants(op_type: str, opset: int, as_input: bool) -> None:
    x = last_node("g (float[2] x) => (float[2] y) { y = Relu(x) }").input(0)
    made = forms.with_axes(RewriteBuilder({"": opset}), op_type, x, [0])
    assert isinstance(made, NewOutput)
    assert (len(made.node.inputs) == 2) is as_input
    assert ("axes" in made.node.attributes) is not as_input
