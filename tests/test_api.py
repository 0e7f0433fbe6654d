"""The straight line of `optimize` for Python: what goes in, what comes out, what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

import onnxopt
from onnxopt.errors import BadInput

MODEL = Path(__file__).parents[1] / "models" / "cifar_resnet20.onnx"
GELU = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,8] y) <float r = {1.4142135}, float one = {1}, float half = {0.5}>
{ a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }"""


def optimized(model: Any, **keywords: Any) -> onnxopt.Result:
    return onnxopt.optimize(model, **{"check": False, "bench": False, **keywords})


def ops_of(result: onnxopt.Result) -> list[str]:
    return [node.op_type for node in result.proto.graph.node]


def test_every_kind_of_source_gives_the_same_bytes() -> None:
    proto = onnx.load(MODEL)
    sources = [MODEL, str(MODEL), MODEL.read_bytes(), proto, onnxopt.load(MODEL)]
    found = {optimized(source).proto.SerializeToString(deterministic=True) for source in sources}
    assert len(found) == 1


def test_the_model_that_was_given_is_not_touched() -> None:
    proto = onnx.load(MODEL)
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    optimized(model)
    optimized(proto)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert proto == onnx.load(MODEL)


def test_the_result_is_proven_and_saved(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = optimized(MODEL, check=True, output=target)
    assert result.report.parity is not None
    assert result.report.parity.passed
    assert onnx.load(target) == result.proto
    assert result.report.after.nodes < result.report.before.nodes / 2


def test_levels_let_through_what_they_say() -> None:
    text = "g (float[2] x) => (float[2] y) <float z = {0}> { a = Identity(x) b = Relu(a)"
    model = parse(f"{text} y = Add(b, z) }}")
    assert ops_of(optimized(model, level="clean")) == ["Identity", "Relu", "Add"]
    assert ops_of(optimized(model, level="exact")) == ["Relu", "Add"]
    assert ops_of(optimized(model, level="close")) == ["Relu"]


def test_only_and_disable_choose_by_name() -> None:
    text = "g (float[2] x) => (float[2] y) <float z = {0}> { a = Identity(x) b = Relu(a)"
    model = parse(f"{text} y = Add(b, z) }}")
    assert ops_of(optimized(model, only=["drop_identity"])) == ["Relu", "Add"]
    assert ops_of(optimized(model, disable=["drop_identity"])) != ["Relu"]
    assert ops_of(optimized(model, only=["clean"])) == ["Identity", "Relu", "Add"]


def test_a_rule_that_is_off_says_so_and_can_be_enabled() -> None:
    header = '<ir_version: 12, opset_import: ["" : 24]>'
    model = parse(f"{header} g (float[N,4] x) => (float[N,4] y) {{ s = Sigmoid(x) y = Mul(x, s) }}")
    left = optimized(model)
    assert ops_of(left) == ["Sigmoid", "Mul"]
    assert any("--enable fuse_swish" in group.reason for group in left.report.refusals)
    assert ops_of(optimized(model, enable=["fuse_swish"])) == ["Swish"]


def test_the_opset_is_raised_only_on_request() -> None:
    model = parse(GELU)
    left = optimized(model)
    assert left.proto.opset_import[0].version == 17
    assert any("--opset 20" in group.reason for group in left.report.refusals)
    raised = optimized(model, opset=20, check=True)
    assert raised.proto.opset_import[0].version == 20
    assert ops_of(raised) == ["Gelu"]
    assert raised.report.parity is not None
    assert raised.report.parity.passed


@pytest.mark.parametrize(("opset", "words"), [(9, "older"), (99, "knows")])
def test_an_opset_out_of_reach_is_refused(opset: int, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        optimized(parse(GELU), opset=opset)


CUSTOM = """<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
g (float[2] x) => (float[2] y) { a = Identity(x) b = acme.Magic(a) y = Identity(b) }"""


def test_what_onnxruntime_can_not_run_is_left_as_it_is_and_said_so() -> None:
    model = parse(CUSTOM)
    result = optimized(model, check=True)
    assert result.proto == model
    assert result.report.parity is None
    assert any("nothing was changed" in note for note in result.report.notes)


def test_without_proof_custom_operators_are_passed_through_and_the_rest_is_rewritten() -> None:
    assert ops_of(optimized(parse(CUSTOM))) == ["Magic"]


@pytest.mark.parametrize(
    "keywords",
    [
        {"level": "best"},
        {"providers": ["nowhere"]},
        {"only": ["no_such_rule"]},
        {"dims": {"M": 3}},
        {"input_shapes": {"z": (1,)}},
        {"dims": {"N": 3}, "input_shapes": {"x": (2, 8)}},
    ],
    ids=lambda item: next(iter(item)),
)
def test_options_that_do_not_fit_are_refused_before_any_work(keywords: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        optimized(parse(GELU), **keywords)
    assert caught.value.hint


def test_bound_dims_come_out_bound_and_others_stay_dynamic() -> None:
    text = "g (float[N,M] x) => (float[N,M] y) { a = Identity(x) y = Relu(a) }"
    shape = optimized(parse(text), dims={"N": 3}).proto.graph.input[0].type.tensor_type.shape
    assert (shape.dim[0].dim_value, shape.dim[1].dim_param) == (3, "M")
    kept = optimized(parse(text)).proto
    assert kept.graph.input == parse(text).graph.input
    assert kept.graph.output == parse(text).graph.output
