"""What a model takes, and the word for what it does not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.check.inputs import checked_feed, inputs_of
from onnxopt.errors import BadInput


def inputs(signature: str, *, ir_version: int = 8, initializers: str = ""):
    text = f"""<ir_version: {ir_version}, opset_import: ["" : 17]>
        g ({signature}) => (float[1] y) {initializers} {{ y = Constant<value_float = 1.0>() }}"""
    return inputs_of(ir.from_onnx_text(text))


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("float[batch, 3, 224] x", "float32[batch, 3, 224]"),
        ("int64 x", "int64[]"),
        ("string[?] x", "string[?]"),
        ("seq(float[n]) x", "a list of float32[n]"),
        ("optional(int32[2]) x", "int32[2] or None"),
        ("optional(seq(bool)) x", "a list of bool[] or None"),
    ],
)
def test_types_read_as_people_write_them(signature, expected):
    (spec,) = inputs(signature)
    assert spec.expected == expected


def test_an_input_without_a_shape_may_have_any_rank():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Neg(x) }'
    )
    model.graph.inputs[0].shape = None
    (spec,) = inputs_of(model)
    assert spec.expected == "float32[any rank]"
    assert checked_feed({"x": np.zeros((2, 3), np.float32)}, [spec])


def test_an_illegal_negative_dim_means_any():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3] x) => (float[1, 3] y) '
        "{ y = Neg(x) }"
    )
    model.graph.inputs[0].shape = ir.Shape([-1, 3])
    assert inputs_of(model)[0].shape == (None, 3)


def test_an_initializer_that_may_be_overridden_is_not_required():
    signature, initializers = "float[1] x, float[1] w", "<float[1] w = {1}>"
    assert [s.required for s in inputs(signature, initializers=initializers)] == [True, False]
    old = inputs(signature, initializers=initializers, ir_version=3)
    assert [spec.name for spec in old] == ["x"]


FEED = {"x": np.zeros((2, 3), np.float32), "n": np.int64(1)}


def takes(**changes):
    feed = {**FEED, **changes}
    specs = inputs("float[batch, 3] x, int64 n")
    return checked_feed({k: v for k, v in feed.items() if v is not ...}, specs)


def test_a_fitting_feed_passes():
    assert takes()["x"] is FEED["x"]


def test_numbers_and_lists_become_arrays_of_the_right_type():
    feed = takes(n=3, x=[[1, 2, 3]])
    assert (feed["n"].dtype, feed["x"].dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"z": 1}, "no input 'z'", "x: float32[batch, 3], n: int64[]"),
        ({"x": ...}, "'x' is missing", "float32[batch, 3]"),
        ({"x": np.zeros((2, 3))}, "'x' got float64[2, 3]", "float32[batch, 3]"),
        ({"x": np.zeros((2, 4), np.float32)}, "'x' got float32[2, 4]", "float32[batch, 3]"),
        ({"x": np.zeros(3, np.float32)}, "'x' got float32[3]", "float32[batch, 3]"),
        ({"x": "words"}, "'x' got str", "float32[batch, 3]"),
        ({"n": None}, "'n' got None", "int64[]"),
    ],
)
def test_a_misfit_names_the_input_and_what_it_takes(changes, message, hint):
    with pytest.raises(BadInput) as caught:
        takes(**changes)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_sequences_are_checked_item_by_item():
    specs = inputs("seq(float[2]) x")
    good = np.zeros(2, np.float32)
    assert len(checked_feed({"x": [good, good]}, specs)["x"]) == 2
    for bad in (good, [good, np.zeros(3, np.float32)]):
        with pytest.raises(BadInput, match="'x' got"):
            checked_feed({"x": bad}, specs)


def test_an_optional_input_may_be_left_out():
    assert checked_feed({}, inputs("optional(float[2]) x")) == {"x": None}


def test_unicode_arrays_are_strings():
    feed = checked_feed({"x": np.array(["a", "b"])}, inputs("string[n] x"))
    assert feed["x"].dtype == object


def test_bytes_numpy_saved_for_bfloat16_are_read_as_such(tmp_path):
    np.save(tmp_path / "x.npy", np.array([1, 2]).astype(ml_dtypes.bfloat16))
    loaded = np.load(tmp_path / "x.npy")
    feed = checked_feed({"x": loaded}, inputs("bfloat16[n] x"))
    assert feed["x"].astype(float).tolist() == [1, 2]
