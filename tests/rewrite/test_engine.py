"""What the engine promises about matching, editing, refusing and coming to rest."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.errors import RuleError
from onnxopt.passes import shapes
from onnxopt.rewrite import Attr, Const, Exactness, Example, Rule, Value, Values
from onnxopt.rewrite.apply import RULE_KEY, SOURCE_KEY
from onnxopt.rewrite.engine import Outcome, compile_rule, run


class _Rule(Rule):
    """A rule for tests."""

    exactness = Exactness.EXACT
    example = Example("", "")


class DropRelu(_Rule):
    """Relu of Relu."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Relu(op.Relu(x).named("inner"))

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Relu(hit.x, like=hit.inner)


class DropIdentity(_Rule):
    """Identity."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Identity(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return hit.x


class FuseProduct(_Rule):
    """(a + 1) · (a + 2), commuted in any way."""

    def pattern(self, op: Any, a: Value, c: Const) -> Any:
        return op.Mul(op.Add(a, 1.0), op.Add(a, c))

    def rewrite(self, op: Any, hit: Any) -> Any:
        hit.require(hit.c.scalar == 2, "the second summand is not two")
        return op.Exp(hit.a)


def applied(text: str, *rules: Rule, **keywords: Any) -> tuple[onnx.ModelProto, Outcome]:
    model = ir.from_proto(parse(text))
    outcome = run(model, [[compile_rule(rule) for rule in rules]], **keywords)
    return ir.to_proto(model), outcome


def ops_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_commuted_inputs_are_tried_until_all_constraints_hold() -> None:
    body = "{ l = Add(one, a) r = Add(two, a) y = Mul(r, l) }"
    model, _ = applied(
        f"g (float[2] a) => (float[2] y) <float one = {{1}}, float two = {{2}}> {body}",
        FuseProduct(),
    )
    assert ops_of(model) == ["Exp"]


def test_the_same_variable_means_the_same_tensor() -> None:
    body = "{ l = Add(one, a) r = Add(two, b) y = Mul(r, l) }"
    head = "g (float[2] a, float[2] b) => (float[2] y) <float one = {1}, float two = {2}>"
    model, _ = applied(f"{head} {body}", FuseProduct())
    assert ops_of(model) == ["Add", "Add", "Mul"]


def test_a_refusal_names_rule_node_and_reason() -> None:
    body = "{ l = Add(one, a) r = Add(three, a) [product] y = Mul(r, l) }"
    head = "g (float[2] a) => (float[2] y) <float one = {1}, float three = {3}>"
    _, outcome = applied(f"{head} {body}", FuseProduct())
    assert outcome.refusals == (("fuse_product", "product", "the second summand is not two"),)


def test_an_inner_value_read_elsewhere_blocks_the_match() -> None:
    model, _ = applied(
        "g (float[2] x) => (float[2] y, float[2] a) { a = Relu(x) y = Relu(a) }", DropRelu()
    )
    assert ops_of(model) == ["Relu", "Relu"]


def test_a_chain_comes_to_rest_in_one_run() -> None:
    body = "{ a = Relu(x) b = Relu(a) c = Relu(b) d = Relu(c) y = Relu(d) }"
    model, outcome = applied(f"g (float[2] x) => (float[2] y) {body}", DropRelu())
    assert ops_of(model) == ["Relu"] and outcome.journal.hits == {"drop_relu": 4}


def test_output_names_survive_when_a_node_before_takes_over() -> None:
    model, _ = applied(
        "g (float[2] x) => (float[2] y) { a = Relu(x) y = Identity(a) }", DropIdentity()
    )
    assert ops_of(model) == ["Relu"] and model.graph.node[0].output[0] == "y"


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] y) { y = Identity(x) }",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Identity(w) }",
    ],
    ids=["from an input", "from another output", "from an initializer"],
)
def test_an_output_that_nothing_else_can_name_keeps_its_identity(text: str) -> None:
    model, outcome = applied(text, DropIdentity())
    assert "Identity" in ops_of(model) and len(outcome.refusals) == 1
    onnx.checker.check_model(model)


def test_new_nodes_carry_their_rule_their_sources_and_the_name_of_the_old() -> None:
    body = "{ [first] a = Relu(x) [second] y = Relu(a) }"
    model, _ = applied(f"g (float[2] x) => (float[2] y) {body}", DropRelu())
    node = model.graph.node[0]
    written = {item.key: item.value for item in node.metadata_props}
    assert written == {RULE_KEY: "drop_relu", SOURCE_KEY: "first, second"}
    assert node.name == "first"


def test_names_are_the_same_in_every_run() -> None:
    body = "{ a = Relu(x) b = Relu(a) c = Exp(b) d = Relu(c) y = Relu(d) }"
    text = f"g (float[2] x) => (float[2] y) {body}"
    first, second = (applied(text, DropRelu())[0].SerializeToString() for _ in range(2))
    assert first == second


class SwapToNeg(_Rule):
    """Abs to Neg."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Abs(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Neg(hit.x)


class SwapToAbs(_Rule):
    """Neg to Abs."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Neg(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Abs(hit.x)


class ReplaceNothing(_Rule):
    """Has no output to replace."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Abs(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return {}


def test_a_rule_that_replaces_nothing_has_not_fired() -> None:
    _, outcome = applied("g (float[2] x) => (float[2] y) { y = Abs(x) }", ReplaceNothing())
    assert not outcome.journal.entries


def test_rules_that_undo_each_other_are_an_error_that_names_both() -> None:
    with pytest.raises(RuleError, match=r"swap_to_\w+ and swap_to_\w+ undo each other") as caught:
        applied("g (float[2] x) => (float[2] y) { y = Abs(x) }", SwapToNeg(), SwapToAbs())
    assert "swap_to_neg" in caught.value.message and "swap_to_abs" in caught.value.message


class FuseConcat(_Rule):
    """A Concat of anything, in reverse."""

    def pattern(self, op: Any, rest: Values, axis: Attr) -> Any:
        return op.Concat(rest, axis=axis)

    def rewrite(self, op: Any, hit: Any) -> Any:
        hit.match(len(hit.rest) > 1)
        return op.Sum(*hit.rest) if hit.axis == 0 else None


def test_all_inputs_of_a_variadic_op_and_an_attribute_are_bound() -> None:
    head = "g (float[2] a, float[2] b, float[2] c) => (float[N] y)"
    model, _ = applied(f"{head} {{ y = Concat<axis = 0>(a, b, c) }}", FuseConcat())
    assert list(model.graph.node[0].input) == ["a", "b", "c"]


NESTED = """
g (bool c, float[2] x) => (float[2] y) {
  a = Relu(x)
  y = If(c) <
    then_branch = t () => (float[2] p) { q = Relu(a) p = Relu(q) },
    else_branch = e () => (float[2] r) { r = Identity(a) }
  >
}"""


def test_bodies_are_rewritten_and_a_capture_counts_as_a_reader() -> None:
    model, outcome = applied(NESTED, DropRelu())
    branch = model.graph.node[1].attribute[0].g
    assert [node.op_type for node in branch.node] == ["Relu"]
    assert outcome.journal.hits == {"drop_relu": 1}
    assert ops_of(model) == ["Relu", "If"]


class FoldIntoConstant(_Rule):
    """x + c to x − (−c)."""

    def pattern(self, op: Any, x: Value, c: Const) -> Any:
        return op.Add(x, c)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Sub(hit.x, op.const(-hit.c.array, like=hit.c))


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2] x) => (float[2] y) { y = local.shift(x) }
<domain: "local", opset_import: ["" : 21]>
shift (x) => (y) { c = Constant<value_float = 2.0>() y = Add(x, c) }"""


def test_constants_made_in_a_function_are_constant_nodes() -> None:
    model, _ = applied(FUNCTION, FoldIntoConstant())
    assert [node.op_type for node in model.functions[0].node] == ["Constant", "Sub"]
    onnx.checker.check_model(model)


def test_constants_are_nodes_where_initializers_must_be_inputs() -> None:
    header = '<ir_version: 3, opset_import: ["" : 9]>'
    text = f"{header} g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}>"
    model = ir.from_proto(parse(f"{text} {{ y = Add(x, w) }}"))
    shapes.infer(model)
    run(model, [[compile_rule(FoldIntoConstant())]])
    back = ir.to_proto(model)
    assert ops_of(back) == ["Constant", "Sub"]
    onnx.checker.check_model(back)


def test_undo_gives_back_the_model_edit_by_edit() -> None:
    body = "{ a = Relu(x) b = Relu(a) c = Identity(b) d = Add(c, w) y = Identity(d) }"
    text = f"g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {body}"
    model = ir.from_proto(parse(text))
    rules = [DropRelu(), DropIdentity(), FoldIntoConstant()]
    journal = run(model, [[compile_rule(rule) for rule in rules]]).journal
    assert len(journal) == 4
    journal.undo(keep=2)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    journal.undo()
    back = ir.to_proto(model)
    assert {tuple(n.input) + (n.op_type,) + tuple(n.output) for n in back.graph.node} == {
        tuple(n.input) + (n.op_type,) + tuple(n.output) for n in parse(text).graph.node
    }
    assert [tensor.name for tensor in back.graph.initializer] == ["w"]


def test_a_skipped_site_is_left_alone_and_the_rest_fires() -> None:
    body = "{ a = Relu(x) b = Relu(a) c = Exp(b) d = Relu(c) y = Relu(d) }"
    text = f"g (float[2] x) => (float[2] y) {body}"
    model, outcome = applied(text, DropRelu(), skip=frozenset({("drop_relu", "b")}))
    assert ops_of(model) == ["Relu", "Relu", "Exp", "Relu"]
    assert [(entry.rule, entry.site) for entry in outcome.journal.entries] == [("drop_relu", "y")]


class FuseGelu(_Rule):
    """Exp to Gelu, which old opsets lack."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Exp(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Gelu(hit.x)


def test_an_op_that_the_opset_lacks_is_refused_and_never_emitted() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    model, outcome = applied(
        f"{header} g (float[2] x) => (float[2] y) {{ y = Exp(x) }}", FuseGelu()
    )
    assert ops_of(model) == ["Exp"]
    assert outcome.refusals[0][2] == "Gelu is not in opset 17; --opset raises it"


class BrokenRule(_Rule):
    """Raises."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Exp(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        raise ZeroDivisionError("by nought")


def test_a_rule_that_raises_is_named() -> None:
    with pytest.raises(RuleError, match="rule broken_rule raised ZeroDivisionError"):
        applied("g (float[2] x) => (float[2] y) { y = Exp(x) }", BrokenRule())


def test_a_pattern_with_a_wrong_annotation_is_named() -> None:
    class Wrong(BrokenRule):
        def pattern(self, op: Any, x: int) -> Any:
            return op.Exp(x)

    with pytest.raises(RuleError, match="rule wrong: the pattern parameter 'x'"):
        compile_rule(Wrong())


class HalveTwice(_Rule):
    """Two halvings as one quarter."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(op.Mul(x, 0.5), 0.5)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Mul(hit.x, op.const(0.25, dtype=hit.x.dtype))


def inferred(text: str, rule: Rule) -> onnx.ModelProto:
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    run(model, [[compile_rule(rule)]])
    return ir.to_proto(model)


def test_who_asks_a_vanishing_value_for_its_shape_asks_the_result() -> None:
    after = inferred(
        "g (float[N,4] x) => (float[N,4] y, int64[2] s) <float h = {0.5}>"
        "{ a = Mul(x, h) s = Shape(a) y = Mul(a, h) }",
        HalveTwice(),
    )
    assert [(node.op_type, node.input[0]) for node in after.graph.node] == [
        ("Mul", "x"),
        ("Shape", "y"),
    ]


def test_a_result_made_with_the_shape_can_not_be_asked_for_it() -> None:
    after = inferred(
        "g (float[N,4] x) => (float[N,4] y) <float h = {0.5}, int64 first = {0}>"
        "{ a = Mul(x, h) s = Shape(a) n = Gather(s, first) f = Cast<to = 1>(n) b = Mul(a, f)"
        " c = Mul(b, h) y = Mul(c, h) }",
        HalveTwiceBut(),
    )
    assert [node.op_type for node in after.graph.node].count("Mul") == 4


class HalveTwiceBut(_Rule):
    """Two halvings with a factor of any kind between them."""

    def pattern(self, op: Any, x: Value, f: Value) -> Any:
        return op.Mul(op.Mul(op.Mul(x, 0.5), f), 0.5)

    def rewrite(self, op: Any, hit: Any) -> Any:
        return op.Mul(op.Mul(hit.x, hit.f), op.const(0.25, dtype=hit.x.dtype))


class SwapTwins(_Rule):
    """Every reader of a Neg reads a new one, whatever stands where."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Exp(x)

    def rewrite(self, op: Any, hit: Any) -> Any:
        twins = [node.output for node in hit.x.readers if node.is_op("Neg")]
        hit.match(len(twins) > 1)
        return dict.fromkeys(twins, op.Neg(hit.x))


def test_one_new_value_for_two_outputs_keeps_both_names() -> None:
    after, _ = applied(
        "g (float[2] x) => (float[2] p, float[2] q, float[2] e)"
        " { e = Exp(x) p = Neg(x) q = Neg(x) }",
        SwapTwins(),
    )
    assert [value.name for value in after.graph.output] == ["p", "q", "e"]
    onnx.checker.check_model(after, full_check=True)
    assert sorted(node.op_type for node in after.graph.node) == ["Exp", "Identity", "Neg"]
