"""What the graph tells about its inputs."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxopt.check.hints import Hint, hints


def hint(inputs: str, body: str, more: str = "", functions: str = "") -> Hint:
    text = f"""<ir_version: 10, opset_import: ["" : 17, "ai.onnx.ml" : 3, "own" : 1]>
        g ({inputs}) => (float[] y) {more} {{ {body} }} {functions}"""
    return hints(ir.from_onnx_text(text))["x"]


TABLE = "<float[7, 2] table = {1,2,3,4,5,6,7,8,9,10,11,12,13,14}>"


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(table, x)",
        "a = Cast<to = 7>(x)  y = Gather(table, a)",
        "s = Constant<value_ints = [-1]>()  a = Reshape(x, s)  y = Gather(table, a)",
    ],
)
def test_an_index_stays_within_its_table(body):
    assert hint("int64[n] x", body, TABLE).limit == 7


def test_an_index_along_another_axis():
    assert hint("int64[n] x", "y = Gather<axis = 1>(table, x)", TABLE).limit == 2


def test_the_smallest_of_several_tables_counts():
    body = "a = Gather(table, x)  b = Gather<axis = 1>(table, x)  y = Concat<axis = 0>(a, b)"
    assert hint("int64[n] x", body, TABLE).limit == 2


def test_an_index_used_in_a_branch_only():
    body = """y = If(c) <then_branch = t () => (float[] a) { a = Gather(table, x) },
                        else_branch = e () => (float[] b) { b = Identity(table) }>"""
    assert hint("int64[n] x, bool c", body, TABLE).limit == 7


def test_an_index_used_in_a_local_function():
    functions = """<domain: "own", opset_import: ["" : 17]>
        f (i) => (o) { t = Constant<value_floats = [1.0, 2.0, 3.0]>()  o = Gather(t, i) }"""
    assert hint("int64[n] x", "y = own.f(x)", functions=functions).limit == 3


def test_constants_an_input_is_compared_with():
    body = """k = Constant<value_int = 16000>()  e = Equal(x, k)  y = Cast<to = 1>(e)"""
    assert hint("int64 x", body).constants == (16000,)


def test_words_an_encoder_knows():
    body = """y = ai.onnx.ml.LabelEncoder<keys_strings = ["yes", "no"],
              values_floats = [1.0, 0.0]>(x)"""
    assert hint("string[n] x", body).constants == ("yes", "no")


def test_how_many_and_which_shape():
    assert hint("int64[1] x", "y = ConstantOfShape(x)").count
    body = "a = Constant<value_float = 1.0>()  y = Reshape(a, x)"
    assert hint("int64[n] x", body).shape


@pytest.mark.parametrize(
    ("body", "weight", "rank", "axes"),
    [
        ("y = Conv(x, w)", "float[4, 3, 5, 5]", 4, {1: 3}),
        ("y = Conv<group = 2>(x, w)", "float[4, 3, 5, 5]", 4, {1: 6}),
        ("y = ConvTranspose(x, w)", "float[4, 3, 5]", 3, {1: 4}),
        ("y = MatMul(x, w)", "float[8, 2]", None, {-1: 8}),
        ("y = Gemm<transB = 1>(x, w)", "float[8, 2]", 2, {1: 2}),
        ("a = Relu(x)  y = MatMul(a, w)", "float[8, 2]", None, {-1: 8}),
    ],
)
def test_weights_tell_the_size_of_an_axis(body, weight, rank, axes):
    found = hint(f"float[] x, {weight} w", body)
    assert (found.rank, found.axes) == (rank, axes)
