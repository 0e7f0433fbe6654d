"""Two graphs are compared by name, in every body, with the rules behind what is new."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.report.difference import Change, Difference, difference
from onnxopt.report.difference_page import difference_page
from onnxopt.report.markdown import markdown
from onnxopt.rewrite.apply import RULE_KEY, SOURCE_KEY

BEFORE = """
g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] w = {1, 2}, float[2] s = {3, 4}>
{ [one] a = Relu(x) [two] b = Sigmoid(a) [three] y = Neg(b) }
"""
BRANCHES = """
g (bool c, float[2] x) => (float[2] y)
{{ [pick] y = If (c)
  <then_branch = t () => (float[2] p) {{ [inner] p = {op}(x) }},
   else_branch = e () => (float[2] q) {{ [other] q = Neg(x) }}> }}
"""


def _model(text: str) -> ir.Model:
    return ir.from_proto(parse(text))


def _between(before: str, after: str) -> list[tuple[str, str, str, str]]:
    found = difference(_model(before), _model(after))
    return [(each.kind, each.name, each.before, each.after) for each in found.changes]


def test_a_model_does_not_differ_from_itself() -> None:
    found = difference(_model(BEFORE), _model(BEFORE))
    assert found.changes == ()
    assert (found.same_nodes, found.same_weights) == (3, 2)
    assert "No difference." in markdown(difference_page(found))


def test_a_node_that_went_and_one_that_changed() -> None:
    after = BEFORE.replace("[two] b = Sigmoid(a)", "").replace("Neg(b)", "Neg(a)")
    assert _between(BEFORE, after) == [
        ("node", "two", "b = Sigmoid(a)", ""),
        ("node", "three", "y = Neg(b)", "y = Neg(a)"),
    ]


def test_a_weight_of_the_same_shape_with_other_numbers() -> None:
    after = BEFORE.replace("w = {1, 2}", "w = {1, 3}")
    assert _between(BEFORE, after) == [
        ("weight", "w", "FLOAT[2]", "FLOAT[2], other numbers"),
    ]


def test_an_attribute_counts() -> None:
    before = "g (float[2,3] x) => (float[2,3] y) { [n] y = Softmax<axis = 0>(x) }"
    changes = _between(before, before.replace("axis = 0", "axis = 1"))
    assert changes == [("node", "n", "y = Softmax <axis = 0>(x)", "y = Softmax <axis = 1>(x)")]


def test_a_change_inside_a_branch_names_the_way_to_it() -> None:
    changes = _between(BRANCHES.format(op="Relu"), BRANCHES.format(op="Abs"))
    assert changes == [("node", "pick/then_branch/inner", "p = Relu(x)", "p = Abs(x)")]


def test_inputs_outputs_opset_and_metadata_count() -> None:
    before, after = parse(BEFORE), parse(BEFORE)
    after.opset_import[0].version = 20
    after.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    after.metadata_props.append(onnx.StringStringEntryProto(key="author", value="me"))
    found = difference(ir.from_proto(before), ir.from_proto(after))
    assert [(each.kind, each.name) for each in found.changes] == [
        ("model", "opset of ai.onnx"),
        ("model", "metadata author"),
        ("input", "x"),
    ]


def test_a_node_without_a_name_goes_by_its_output() -> None:
    before = "g (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }"
    changes = _between(before, before.replace("Relu", "Abs"))
    assert changes == [("node", "a", "a = Relu(x)", "a = Abs(x)")]


def test_a_constant_node_and_an_initializer_are_the_same_weight() -> None:
    before = (
        "g (float[2] x) => (float[2] y) { c = Constant<value = float[2] {1, 2}>() y = Add(x, c) }"
    )
    after = "g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { y = Add(x, c) }"
    assert _between(before, after) == []


def test_what_a_rule_made_says_which_and_from_what() -> None:
    after = _model(BEFORE)
    after.graph.node("three").metadata_props.update({RULE_KEY: "fuse_it", SOURCE_KEY: "two, three"})
    after.graph.node("three").name = "four"
    found = difference(_model(BEFORE), after)
    new = Change("node", "four", "", "y = Neg(b)", "fuse_it", "two, three")
    assert new in found.changes
    assert "by fuse_it from two, three" in markdown(difference_page(found))


@pytest.mark.parametrize(("verbose", "shown"), [(False, 30), (True, 40)])
def test_a_long_list_is_cut_unless_asked_for(verbose: bool, shown: int) -> None:
    changes = tuple(Change("node", f"n{i}", "", "y = Neg(b)") for i in range(40))
    found = Difference("A", "B", changes, {}, {"Neg": 40}, 0, 0)
    text = markdown(difference_page(found, verbose=verbose))
    assert text.count("+ node") == shown
    assert ("10 more" in text) is not verbose
