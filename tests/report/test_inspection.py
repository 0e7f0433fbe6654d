"""An inspection says what a model is made of and what would block the optimizer."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.passes import shapes
from onnxopt.report.inspection import Inspection, inspection
from onnxopt.report.inspection_page import inspection_page
from onnxopt.report.markdown import markdown

PLAIN = """
g (float[batch,3,8,8] x) => (float[batch,4,8,8] y) <float[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ y = Conv(x, w) }
"""


def _inspected(proto: onnx.ModelProto) -> Inspection:
    model = ir.from_proto(proto)
    inferred = model.clone()
    shapes.remember(inferred)
    shapes.infer(inferred)
    return inspection(model, inferred, source="m.onnx")


def _findings(proto: onnx.ModelProto) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {each.what: (each.count, each.where) for each in _inspected(proto).blockers}


def test_a_plain_model_has_nothing_that_blocks() -> None:
    found = _inspected(parse(PLAIN))
    assert found.blockers == ()
    assert found.dynamic_dims == {"batch": ("x", "y")}
    assert found.cost.macs == 4 * 3 * 8 * 8
    assert found.opsets == {"ai.onnx": 21}
    text = markdown(inspection_page(found))
    assert "[batch, 3, 8, 8]" in text
    assert "at batch=1" in text
    assert "Nothing." in text


def test_initializers_that_a_caller_may_override() -> None:
    proto = parse(PLAIN)
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 1, 1])
    )
    found = _inspected(proto)
    assert [port.name for port in found.inputs] == ["x"]
    assert [(each.count, each.where) for each in found.blockers] == [(1, ("w",))]
    assert "--freeze-inputs" in found.blockers[0].effect
    proto.ir_version = 3
    assert _findings(proto) == {}


def test_operators_without_a_schema() -> None:
    proto = parse(
        '<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]>\n'
        "g (float[2] x) => (float[2] y)"
        "{ a = my.domain.Magic(x) b = my.domain.Magic(a) y = Relu(b) }"
    )
    findings = _findings(proto)
    assert findings["operators that onnx has no schema for"] == (2, ("my.domain.Magic x2",))


def test_a_local_function_is_no_operator_without_a_schema() -> None:
    proto = parse(
        '<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]>\n'
        "g (float[2] x) => (float[2] y) { y = my.domain.Twice(x) }\n"
        '<domain: "my.domain", opset_import: ["" : 21]> Twice (a) => (b) { b = Add(a, a) }'
    )
    found = _inspected(proto)
    assert found.functions == ("my.domain.Twice",)
    assert "operators that onnx has no schema for" not in {each.what for each in found.blockers}


def test_random_operators() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { [dice] r = RandomNormalLike(x) y = Add(x, r) }")
    assert _findings(proto)["random operators"] == (1, ("dice",))


def test_an_illegal_dim_is_named() -> None:
    proto = parse(PLAIN)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert _findings(proto)["illegal dims in declared shapes"] == (1, ("x: -1",))


def test_a_wrong_declared_output_shape_is_named() -> None:
    proto = parse("g (float[2,3] x) => (float[7] y) { y = Relu(x) }")
    count, where = _findings(proto)["declared output shapes that can't be"]
    assert (count, where) == (1, ("y: [7], really [2, 3]",))


@pytest.mark.parametrize(
    ("opset", "word"), [(99, "newer"), (5, "older")], ids=["too new", "too old"]
)
def test_an_opset_that_rules_do_not_know(opset: int, word: str) -> None:
    proto = parse("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    proto.opset_import[0].version = opset
    model = ir.from_proto(proto)
    found = inspection(model, model, source="m.onnx")
    assert any(word in each.what for each in found.blockers)


def test_no_standard_domain_at_all() -> None:
    proto = parse(
        '<ir_version: 10, opset_import: ["ai.onnx.ml" : 1]>\n'
        "g (float[1,2] x) => (float[1,2] y)"
        "{ y = ai.onnx.ml.Scaler<offset = [0.0], scale = [2.0]>(x) }"
    )
    assert "no import of the standard domain ai.onnx" in _findings(proto)


def test_bodies_are_counted_with_their_depth() -> None:
    proto = parse(
        "g (bool c, float[2] x) => (float[2] y) { y = If (c)\n"
        "<then_branch = t () => (float[2] p) { p = Relu(x) },"
        " else_branch = e () => (float[2] q) { q = Neg(x) }> }"
    )
    found = _inspected(proto)
    assert (found.control_flow, found.depth, found.cost.nodes) == ({"If": 1}, 1, 3)
