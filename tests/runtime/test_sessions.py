"""Sessions: models in any form, values of every type, errors in one line."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.errors import RuntimeFailed
from onnxopt.runtime import sessions, weights
from onnxopt.runtime.sessions import Session, evaluate

ADD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n] x) => (float[n] y) <float[1] one = {1}> { y = Add(x, one) }"""


def proto(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def run(model) -> list:
    session = Session.open(model, optimize=False, threads=1)
    return session.run({"x": np.float32([1, 2])})[0].tolist()


def test_a_proto_bytes_a_path_and_an_ir_model_all_open(tmp_path):
    model = proto(ADD)
    path = tmp_path / "add.onnx"
    onnx.save(model, path)
    forms = [model, model.SerializeToString(), path, str(path), ir.serde.deserialize_model(model)]
    assert [run(form) for form in forms] == [[2, 3]] * 5


def test_a_path_brings_its_external_data(tmp_path):
    path = tmp_path / "add.onnx"
    model = proto(ADD)
    (one,) = model.graph.initializer
    one.CopyFrom(onnx.numpy_helper.from_array(np.float32([1]), "one"))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights")
    assert (tmp_path / "weights").exists()
    assert run(path) == [2, 3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint4", "bool"])
def test_big_weights_of_an_ir_model_reach_the_session(dtype):
    kind = ir.DataType.from_numpy(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    values = (np.arange(150_000) % 2).astype(kind.numpy())
    session = Session.open(_holding(ir.tensor(values, dtype=kind)), optimize=False, threads=1)
    (y,) = session.run({"x": np.array([0, 1, 149_999])})
    assert y.tolist() == [0, 1, 1]


def test_big_weights_are_not_copied_into_the_graph():
    weight = ir.tensor(np.ones(150_000, np.float32))
    loadable = weights.loadable(_holding(weight))
    assert len(loadable.graph) < 1000
    assert loadable.names == ["w"]


@pytest.mark.parametrize("listed", [False, True])
def test_a_big_weight_that_nothing_reads_does_not_stop_a_session(listed):
    model = ir.from_proto(proto(ADD))
    weight = ir.Value(name="w", const_value=ir.tensor(np.ones(150_000, np.float32), name="w"))
    weight.shape, weight.type = ir.Shape([150_000]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(weight)
    if listed:
        model.graph.inputs.append(weight)
    assert run(model) == [2, 3]


def test_a_big_weight_that_only_a_body_reads_reaches_it():
    model = proto("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n] x) => (float[] y) <bool yes = {1}> {
            y = If (yes) <
                then_branch = t () => (float[] a) { a = ReduceSum<keepdims = 0>(w) },
                else_branch = e () => (float[] b) { b = ReduceSum<keepdims = 0>(x) }
            >
        }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(150_000, np.float32), "w"))
    session = Session.open(ir.from_proto(model), optimize=False, threads=1)
    assert session.run({"x": np.float32([1])})[0] == 150_000


def test_a_big_proto_takes_the_same_way(monkeypatch):
    monkeypatch.setattr(sessions, "_LARGE", 0)
    assert run(proto(ADD)) == [2, 3]


def _holding(weight: ir.TensorProtocol) -> ir.Model:
    """y is the elements of the weight at x, as floats."""
    x = ir.val("x", ir.DataType.INT64, [3])
    w = ir.Value(name="w", shape=weight.shape, type=ir.TensorType(weight.dtype), const_value=weight)
    cast = ir.node("Cast", [w], {"to": ir.DataType.FLOAT})
    node = ir.node("Gather", [cast.outputs[0], x])
    cast.outputs[0].name, node.outputs[0].name = "c", "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x],
        node.outputs,
        nodes=[cast, node],
        initializers=[w],
        opset_imports={"": 21},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def test_signatures_tell_names_types_and_dims():
    session = Session.open(proto(ADD), optimize=True, threads=1)
    (x,) = session.inputs
    assert (x.name, x.type, x.shape, x.element, x.is_tensor) == (
        "x", "tensor(float)", ("n",), "float", True
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bfloat16", ml_dtypes.bfloat16),
        ("float8e4m3fn", ml_dtypes.float8_e4m3fn),
        ("float8e5m2", ml_dtypes.float8_e5m2),
        ("int4", ml_dtypes.int4),
        ("uint4", ml_dtypes.uint4),
        ("float16", np.float16),
    ],
)
def test_element_types_numpy_lacks_come_out_and_go_in(name, dtype):
    code = getattr(onnx.TensorProto, name.upper())
    head = '<ir_version: 10, opset_import: ["" : 21]> g '
    down = evaluate(
        proto(f"{head} (float[3] x) => ({name}[3] y) {{ y = Cast<to = {code}>(x) }}"),
        {"x": np.float32([1, 2, 3])},
    )["y"]
    assert down.dtype == dtype
    up = evaluate(
        proto(f"{head} ({name}[3] x) => (float[3] y) {{ y = Cast<to = 1>(x) }}"), {"x": down}
    )
    assert up["y"].tolist() == [1, 2, 3]


def test_a_sequence_beside_a_bfloat16_output():
    model = proto("""<ir_version: 10, opset_import: ["" : 17]>
        g (float[2] x, bfloat16[2] b) => (seq(float[2]) y, bfloat16[2] z)
        { y = SequenceConstruct(x, x)  z = Identity(b) }""")
    feeds = {"x": np.float32([1, 2]), "b": np.array([3, 4]).astype(ml_dtypes.bfloat16)}
    values = evaluate(model, feeds)
    assert [item.tolist() for item in values["y"]] == [[1, 2], [1, 2]]
    assert values["z"].astype(float).tolist() == [3, 4]


def test_only_the_outputs_asked_for_in_the_order_asked():
    model = proto("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1] x) => (float[1] a, float[1] b) { a = Neg(x)  b = Abs(x) }""")
    session = Session.open(model, optimize=False, threads=1)
    assert [v.item() for v in session.run({"x": np.float32([-1])}, ["b", "a"])] == [1, 1]
    assert [v.item() for v in session.run({"x": np.float32([2])}, ["a"])] == [-2]


@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_shared_outputs_are_those_of_a_run_and_outlive_it(rows):
    session = Session.open(proto(ADD), optimize=False, threads=1)
    (first,) = session.run_shared({"x": np.float32(rows)}, ["y"])
    session.run_shared({"x": np.float32(rows) * 9}, ["y"])
    del session
    assert first.tolist() == [row + 1 for row in rows]
    assert first.dtype == np.float32
    assert first.flags.writeable == (not rows)


def test_shared_outputs_that_numpy_has_no_type_for_are_copied():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n] x) => (bfloat16[n] y) { y = Cast<to = 16>(x) }"""
    session = Session.open(proto(text), optimize=False, threads=1)
    (found,) = session.run_shared({"x": np.float32([1, 2])}, ["y"])
    assert found.astype(np.float32).tolist() == [1, 2]


def test_a_wrong_size_is_told_where_outputs_are_shared():
    text = ADD.replace("float[n] x", "float[3] x")
    session = Session.open(proto(text), optimize=False, threads=1)
    with pytest.raises(RuntimeFailed, match="Got: 2 Expected: 3"):
        session.run_shared({"x": np.float32([1, 2])}, ["y"])


def test_optimizations_are_on_only_where_asked():
    def level(optimize: bool) -> str:
        session = Session.open(proto(ADD), optimize=optimize, threads=1)
        return session.native.get_session_options().graph_optimization_level.name

    assert (level(False), level(True)) == ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"no protobuf", "can't load the model"),
        ("no such file.onnx", "doesn't exist"),
    ],
)
def test_what_can_not_be_loaded_is_said_in_one_line(model, words):
    with pytest.raises(RuntimeFailed, match=words) as caught:
        Session.open(model, optimize=False)
    assert "\n" not in caught.value.message


def test_an_operator_onnxruntime_lacks_is_named_with_a_hint():
    model = proto("""<ir_version: 8, opset_import: ["" : 17, "strange" : 1]>
        g (float[1] x) => (float[1] y) { y = strange.Thing(x) }""")
    with pytest.raises(RuntimeFailed, match=r"strange:Thing") as caught:
        Session.open(model, optimize=False)
    assert "plain onnxruntime" in caught.value.hint


def test_a_wrong_size_is_told_with_got_and_expected():
    model = proto(ADD.replace("[n]", "[3]"))
    session = Session.open(model, optimize=False, threads=1)
    with pytest.raises(RuntimeFailed, match=r"Got: 2 Expected: 3"):
        session.run({"x": np.float32([1, 2])})


def test_an_error_at_run_time_says_what_and_not_where_in_onnxruntime():
    model = proto("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }""")
    session = Session.open(model, optimize=False, threads=1)
    with pytest.raises(RuntimeFailed, match="Reshape") as caught:
        session.run({"x": np.zeros(3, np.float32), "s": np.array([2])})
    assert "requested shape:{2}" in caught.value.message
    assert "onnxruntime::" not in caught.value.message
    assert "onnxruntime_src" not in caught.value.message


def test_a_model_newer_than_onnxruntime_says_so():
    model = proto(ADD)
    model.ir_version = 99
    with pytest.raises(RuntimeFailed, match="IR version") as caught:
        Session.open(model, optimize=False)
    assert "newer than this onnxruntime" in caught.value.hint


def test_onnxruntime_writes_nothing_to_stderr(capfd):
    model = proto("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }""")
    session = Session.open(model, optimize=False, threads=1)
    with pytest.raises(RuntimeFailed):
        session.run({"x": np.zeros(3, np.float32), "s": np.array([2])})
    assert capfd.readouterr().err == ""
