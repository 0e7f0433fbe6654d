"""What cleanup removes, and what it must leave."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from casefile import parse

from onnxopt.passes.base import Context
from onnxopt.passes.cleanup import CleanPass


def cleaned(text: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = ir.from_proto(parse(text))
    result = CleanPass().run(model, Context())
    return ir.to_proto(model), dict(result.hits)


def test_what_nothing_reads_goes_and_is_counted() -> None:
    model, hits = cleaned(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Exp(x) y = Relu(x) }"
    )
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert not model.graph.initializer and hits == {"unused nodes and initializers": 2}


def test_equal_nodes_are_merged_but_random_ones_are_not() -> None:
    body = "{ a = Exp(x) b = Exp(x) c = RandomNormalLike(x) d = RandomNormalLike(x)"
    model, _ = cleaned(f"g (float[2] x) => (float[2] y) {body} y = Sum(a, b, c, d) }}")
    names = [node.op_type for node in model.graph.node]
    assert names.count("Exp") == 1 and names.count("RandomNormalLike") == 2


OLD = """<ir_version: {ir}, opset_import: ["" : 9]>
g (float[2] x, float[2] w, float[2] v) => (float[2] y)
<float[2] w = {{1, 2}}, float[2] v = {{3, 4}}>
{{ y = Add(x, w) }}"""


def test_an_unread_initializer_leaves_the_inputs_of_an_old_model() -> None:
    model, hits = cleaned(OLD.format(ir=3))
    assert [item.name for item in model.graph.input] == ["x", "w"]
    assert hits["unused initializers listed as inputs"] == 1
    onnx.checker.check_model(model)


def test_an_unread_initializer_that_a_caller_may_override_stays() -> None:
    model, hits = cleaned(OLD.format(ir=4))
    assert [item.name for item in model.graph.input] == ["x", "w", "v"] and not hits


def test_what_an_output_says_stays_when_its_node_is_merged() -> None:
    model = ir.from_proto(
        parse("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x) z = Exp(x) }")
    )
    for value in model.graph.outputs:
        value.metadata_props["kind"] = value.doc_string = f"what {value.name} is"
    assert CleanPass().run(model, Context()).changed
    found = [(v.name, v.doc_string, v.metadata_props["kind"]) for v in model.graph.outputs]
    assert found == [(name, f"what {name} is", f"what {name} is") for name in "yz"]
