"""--input-shape and --dim: what they fix, and what they refuse."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.passes.dims import bind

TEXT = """g (float[batch,3,h,?] x, float[batch,7] z, seq(float) q) => (float[batch,h] y)
<float[batch,3] a> { a = Relu(x) y = Neg(a) }"""


def bound(input_shapes: dict[str, tuple[int, ...]], dims: dict[str, int]) -> onnx.GraphProto:
    model = ir.from_proto(parse(TEXT))
    shapes.remember(model)
    bind(model, input_shapes, dims)
    shapes.restore(model)
    return ir.to_proto(model).graph


def dims_of(info: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in info.type.tensor_type.shape.dim]


def test_a_dim_is_fixed_wherever_it_is_named() -> None:
    graph = bound({}, {"batch": 4})
    assert dims_of(graph.input[0]) == [4, 3, "h", ""] and dims_of(graph.input[1]) == [4, 7]
    assert dims_of(graph.output[0]) == [4, "h"] and dims_of(graph.value_info[0]) == [4, 3]


def test_an_input_shape_fixes_the_names_it_meets() -> None:
    graph = bound({"x": (2, 3, 32, 64)}, {})
    assert dims_of(graph.input[0]) == [2, 3, 32, 64] and dims_of(graph.input[1]) == [2, 7]
    assert dims_of(graph.output[0]) == [2, 32]


def test_a_nameless_dim_says_nothing_of_others() -> None:
    model = ir.from_proto(parse("g (float[a,b] x, float[c] z) => (y) { y = Relu(x) }"))
    for value in model.graph.inputs:
        value.shape = ir.Shape(["?"] * len(value.shape or ()))
    bind(model, {"x": (2, 3)}, {})
    assert str(model.graph.inputs[1].shape) == "[?]"


@pytest.mark.parametrize(
    ("input_shapes", "dims", "message"),
    [
        ({"X": (1, 3, 8, 8)}, {}, "no input called 'X'"),
        ({"q": (1,)}, {}, "not a tensor"),
        ({"x": (1, 3, 8)}, {}, "4 dims"),
        ({"x": (1, 4, 8, 8)}, {}, "contradicts"),
        ({"x": (1, 3, 0, 8)}, {}, "can't be 0"),
        ({"x": (2, 3, 8, 8), "z": (4, 7)}, {}, "2 and 4 at once"),
        ({"x": (2, 3, 8, 8)}, {"batch": 3}, "3 and 2 at once"),
        ({}, {"bach": 2}, "no dim called 'bach'"),
        ({}, {"batch": -1}, "can't be -1"),
        ({}, {"batch": True}, "can't be True"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_hint(
    input_shapes: dict[str, tuple[int, ...]], dims: dict[str, int], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        bound(input_shapes, dims)
    assert caught.value.hint


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(BadInput) as caught:
        bound({}, {"bach": 2})
    assert "'batch'" in caught.value.hint


def test_an_input_without_a_shape_gets_one() -> None:
    model = ir.from_proto(parse("g (float x) => (y) { y = Relu(x) }"))
    model.graph.inputs[0].shape = None
    bind(model, {"x": (2, 3)}, {})
    assert str(model.graph.inputs[0].shape) == "[2,3]"
