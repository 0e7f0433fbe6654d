"""Each rule does to each case in tests/cases what the case says: form, meaning, checker, rest."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from casefile import CASES, Case, all_cases, parse
from onnx import numpy_helper

from onnxopt import registry
from onnxopt.config import Exactness, Options
from onnxopt.passes import shapes
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.rewrite import RewritePass

SEEDS = (0, 1, 2)


def rewritten(case: Case, model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassResult]:
    """The model after only the case's rule ran, between inference and saving."""
    loaded = ir.from_proto(model)
    shapes.infer(loaded)
    context = Context(Options(enable=(case.rule,)))
    result = RewritePass((registry.rules()[case.rule],)).run(loaded, context)
    shapes.restore(loaded)
    return ir.to_proto(loaded), result


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_case(case: Case) -> None:
    before = parse(case.before)
    after, result = rewritten(case, before)
    if case.verdict != "becomes":
        assert form(after) == form(before), onnx.printer.to_text(after)
        if case.verdict == "refuses":
            assert case.reason in [refusal.reason for refusal in result.refusals]
        return
    assert form(after) == form(parse(case.after)), onnx.printer.to_text(after)
    onnx.checker.check_model(after, full_check=True)
    exactness = registry.rules()[case.rule].rule.exactness
    for seed in SEEDS:
        feeds = make_feeds(before, seed, exactness)
        assert_same(run(before, feeds), run(after, feeds), exactness)
    again, result = rewritten(case, after)
    assert not result.changed, f"fires again: {onnx.printer.to_text(again)}"


def test_every_rule_has_cases() -> None:
    """A rule without a case that becomes something, and one that does not, is not shown to work."""
    verdicts: dict[str, set[str]] = {name: set() for name in registry.rules()}
    for case in all_cases():
        verdicts.setdefault(case.rule, set()).add(case.verdict)
    lacking = {
        name: sorted(found)
        for name, found in verdicts.items()
        if "becomes" not in found or not found & {"stays", "refuses"}
    }
    assert not lacking
    assert {path.stem for path in CASES.glob("*.txt")} <= set(registry.rules())


def form(model: onnx.ModelProto) -> Any:
    """The graph up to inner names and the contents of constants, as nested tuples."""
    return graph_form(model.graph, {}, {o.domain: o.version for o in model.opset_import})


def graph_form(graph: onnx.GraphProto, outer: dict[str, Any], opsets: dict[str, int]) -> Any:
    known: dict[str, Any] = dict(outer)
    inputs = [(item.name, typed(item)) for item in graph.input]
    known.update({name: ("input", name) for name, _ in inputs})
    for tensor in graph.initializer:
        known[tensor.name] = ("constant", tensor.data_type, tuple(tensor.dims))
    table: list[Any] = []
    index: dict[Any, int] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            known[node.output[0]] = ("constant", tensor.data_type, tuple(tensor.dims))
            continue
        arguments = tuple(known[name] if name else None for name in node.input)
        outside = _seen_from_a_body(node, known, table)
        entry = (node.domain, node.op_type, arguments, attributes(node, outside, opsets))
        if entry not in index:
            index[entry] = len(table)
            table.append(entry)
        for slot, name in enumerate(node.output):
            known[name] = ("node", index[entry], slot)
    outputs = [(item.name, typed(item), expand(known[item.name], table)) for item in graph.output]
    return (tuple(inputs), tuple(outputs))


def _seen_from_a_body(
    node: onnx.NodeProto, known: dict[str, Any], table: list[Any]
) -> dict[str, Any]:
    """What the graphs in the node's attributes may read, apart from this graph's table."""
    if not any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
        return known
    return {name: expand(item, table) for name, item in known.items()}


def expand(item: Any, table: list[Any]) -> Any:
    """The expression behind a value, so that the order of nodes does not matter."""
    if not (isinstance(item, tuple) and item and item[0] == "node"):
        return item
    domain, op_type, arguments, written = table[item[1]]
    return (op_type, domain, item[2], tuple(expand(arg, table) for arg in arguments), written)


def attributes(node: onnx.NodeProto, known: dict[str, Any], opsets: dict[str, int]) -> Any:
    """Written attributes that differ from the schema's default, sorted."""
    known_attributes = {}
    if onnx.defs.has(node.op_type, node.domain):
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        known_attributes = schema.attributes
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append((attribute.name, graph_form(attribute.g, known, opsets)))
            continue
        value = onnx.helper.get_attribute_value(attribute)
        known_attribute = known_attributes.get(attribute.name)
        default = known_attribute.default_value if known_attribute is not None else None
        has_default = default is not None and bool(default.name)
        if has_default and value == onnx.helper.get_attribute_value(default):
            continue
        if isinstance(value, onnx.TensorProto):
            value = value.SerializeToString()
        if isinstance(value, float):
            value = round(value, 6)
        found.append((attribute.name, tuple(value) if isinstance(value, list) else value))
    return tuple(sorted(found))


def typed(item: onnx.ValueInfoProto) -> Any:
    return item.type.SerializeToString(deterministic=True)


def make_feeds(model: onnx.ModelProto, seed: int, exactness: Exactness) -> dict[str, np.ndarray]:
    """Random inputs with zeros, negatives and large values; NaN and infinities for exact rules."""
    sizes: dict[str, int] = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for item in model.graph.input:
        if item.name in constants:
            continue
        tensor = item.type.tensor_type
        shape = [
            dim.dim_value
            if dim.HasField("dim_value")
            else sizes.setdefault(dim.dim_param, 2 + (len(sizes) + seed) % 4)
            for dim in tensor.shape.dim
        ]
        generator = np.random.default_rng(zlib.crc32(item.name.encode()) + seed)
        feeds[item.name] = make_array(generator, tensor.elem_type, shape, exactness)
    return feeds


def make_array(
    generator: np.random.Generator, elem_type: int, shape: list[int], exactness: Exactness
) -> np.ndarray:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    if dtype == np.bool_:
        return generator.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        return generator.integers(0, 4, shape).astype(dtype)
    array = np.asarray(generator.standard_normal(shape) * 2)
    flat = array.reshape(-1)
    special = [0.0, -0.0, 30.0, -30.0]
    if exactness is Exactness.EXACT:
        special += [np.nan, np.inf, -np.inf]
    for number in special:
        if flat.size > len(special):
            flat[generator.integers(flat.size)] = number
    return array.astype(dtype)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[Any]:
    """onnxruntime's answer without optimizations; ONNX's reference where it has no kernel."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # no kernel for this op, dtype or opset
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model).run(None, feeds)
    return session.run(None, feeds)


def assert_same(wanted: list[Any], found: list[Any], exactness: Exactness) -> None:
    assert len(wanted) == len(found)
    for left, right in zip(wanted, found, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype and left.shape == right.shape
        if exactness is Exactness.EXACT:
            assert numpy_helper.from_array(left).raw_data == numpy_helper.from_array(right).raw_data
        elif left.dtype.kind == "f":
            wide = left.astype(np.float64)
            scale = np.max(np.abs(wide[np.isfinite(wide)]), initial=1e-3)
            step = float(np.finfo(left.dtype).eps)
            np.testing.assert_allclose(
                right.astype(np.float64), wide, rtol=0, atol=scale * step * 64
            )
        else:
            np.testing.assert_array_equal(left, right)
