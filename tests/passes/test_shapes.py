"""What is believed about shapes, what is proven, and what comes back when the model is saved."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.passes import shapes


def inferred(text: str) -> dict[str, str]:
    """The proven shape of every value by name, as text."""
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    return {value.name or "": str(value.shape) for value in values}


def test_dims_that_are_proven_equal_get_one_name() -> None:
    found = inferred(
        """g (float[batch,3,h,w] x, float[4,3,3,3] k, float[4,3,1,1] l) => (y) {
        a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, k)
        b = Conv<strides=[2,2]>(x, l)
        y = Add(a, b)
        }"""
    )
    assert found["a"] == found["y"] == "[batch,4,floordiv(h + 1, 2),floordiv(w + 1, 2)]"


def test_a_wrong_declaration_is_not_believed() -> None:
    found = inferred(
        """g (float[batch,8] x) => (float[7,7,7] y) <float[5,5] a> { a = Relu(x) y = Exp(a) }"""
    )
    assert found == {"a": "[batch,8]", "y": "[batch,8]"}


@pytest.mark.parametrize("name", ["?", "None", "", "-1"])
def test_names_that_mean_nothing_do_not_make_dims_equal(name: str) -> None:
    proto = parse("g (float[n,n] x) => (y) { y = Relu(x) }")
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = name
    model = ir.from_proto(proto)
    shapes.infer(model)
    assert str(model.graph.node(0).outputs[0].shape) == "[x.0,x.1]"


def test_illegal_sizes_are_unknown_dims() -> None:
    proto = parse("g (float[1,0] x) => (y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    model = ir.from_proto(proto)
    shapes.infer(model)
    assert str(model.graph.node(0).outputs[0].shape) == "[x.0,x.1]"


def test_an_overridable_initializer_says_nothing_of_its_value() -> None:
    text = """<ir_version: {ir}, opset_import: ["" : 9]>
    g (float[12] x, int64[2] s) => (y) <int64[2] s = {{3, 4}}> {{ y = Reshape(x, s) }}"""
    assert inferred(text.format(ir=3))["y"] == "[3,4]"
    assert "3" not in inferred(text.format(ir=4))["y"].replace("~3", "")


def test_what_a_loop_keeps_is_known_and_what_grows_is_not() -> None:
    found = inferred(
        """g (int64 m, bool c, float[b,4] s, float[1,4] t) => (float[b,4] y, float[k,4] z) {
        y, z = Loop(m, c, s, t) <body = body
          (int64 i, bool go, float[b,4] s_in, float[k,4] t_in)
          => (bool go_out, float[b,4] s_out, float[k,4] t_out) {
            go_out = Identity(go) s_out = Relu(s_in) t_out = Concat<axis = 0>(t_in, t) }>
        }"""
    )
    assert found["s_out"] == found["y"] == "[b,4]"
    assert found["t_out"].endswith(",4]") and found["t_out"] != found["z"] != "[1,4]"


def test_what_a_loop_counts_is_as_the_body_declares_it() -> None:
    text = """g (int64 m, bool c, float[b,4] s) => (float[b,4] y) {
        y = Loop(m, c, s) <body = body (int64[1] i, bool[1] go, float[7] s_in)
          => (bool go_out, float[b,4] s_out) { go_out = Identity(go) s_out = Relu(s_in) }>
    }"""
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    number, condition, carried = model.graph.node(0).attributes["body"].as_graph().inputs
    assert (str(number.shape), str(condition.shape)) == ("[1]", "[1]")
    assert str(carried.shape) != "[7]"


def test_a_body_knows_what_is_known_around_it() -> None:
    found = inferred(
        """g (float[n,4] x, bool c) => (y) {
        s = Shape(x)
        y = If(c) <then_branch = a () => (float[n,4] p) { p = Reshape(x, s) },
                   else_branch = b () => (float[n,4] q) { q = Neg(x) }>
        }"""
    )
    assert found["p"] == found["y"] == "[n,4]"


def test_a_malformed_node_leaves_the_rest_known() -> None:
    found = inferred("g (float[n,4] x) => (y, z) { y = Transpose<perm = [5, 6]>(x) z = Relu(x) }")
    assert found["z"] == "[n,4]"


def test_declarations_come_back_unless_they_are_proven_wrong() -> None:
    proto = parse(
        """g (float[n,4] x) => (float[m,9] y) <float[n,4] a, float[7] b>
        { a = Relu(x) b = Exp(a) c = Neg(b) y = Abs(c) }"""
    )
    model = ir.from_proto(proto)
    shapes.infer(model)
    shapes.restore(model)
    back = ir.to_proto(model)
    assert [info.name for info in back.graph.value_info] == ["a"]
    assert back.graph.output == proto.graph.output and back.graph.input == proto.graph.input


def test_an_output_keeps_its_declaration_when_a_pass_replaces_it() -> None:
    model = ir.from_proto(parse("g (float[n] x) => (float[m] y) { y = Relu(x) }"))
    shapes.infer(model)
    node = ir.Node("", "Exp", [model.graph.inputs[0]])
    model.graph.append(node)
    old = model.graph.outputs[0]
    model.graph.outputs[0] = node.outputs[0]
    old.name, node.outputs[0].name = "gone", "y"
    assert str(shapes.declared(model.graph.outputs[0])[1]) == "[m]"
    assert str(shapes.declared_copy(model).graph.outputs[0].shape) == "[m]"


def test_inference_without_a_standard_opset_or_nodes_is_quiet() -> None:
    assert inferred("g (float[n] x) => (float[n] x) { }") == {}
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["ai.onnx.ml" : 3]>
        g (float[n,4] x) => (y) { y = ai.onnx.ml.Scaler<offset = [0.0], scale = [1.0]>(x) }"""
    )
    model = ir.from_proto(proto)
    shapes.infer(model)
    value = model.graph.node(0).outputs[0]
    assert (str(value.shape), value.dtype) == ("[n,4]", ir.DataType.FLOAT)
