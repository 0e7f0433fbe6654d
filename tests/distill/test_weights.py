"""Which constants are trained, and that everything else in the file stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import io
from onnxopt.distill.module import GraphModule
from onnxopt.distill.train import trained
from tests.distill.models import classifier, model

F = np.float32


def _trained_names(graph: ir.Model, *outputs: str, frozen: tuple[str, ...] = ()) -> set[str]:
    module = GraphModule(graph, outputs or ("y",), train=True, frozen=frozen)
    return {weight.name for weight in module.weights}


def _moved(graph: ir.Model, *outputs: str) -> ir.Model:
    """The model after a step of one in each of its weights."""
    import torch

    module = GraphModule(graph, outputs or ("y",), train=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    return trained(graph, module)


def _initializers(graph: ir.Model) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in io.to_proto(graph).graph.initializer}


def test_weights_and_biases_of_products_are_trained() -> None:
    assert _trained_names(classifier(4, seed=0)) == {"w1", "b1", "w2", "b2"}


def test_what_is_named_stays_as_it_is() -> None:
    assert _trained_names(classifier(4, seed=0), frozen=("w1", "b2")) == {"b1", "w2"}


def test_statistics_of_a_batch_normalization_stay() -> None:
    ones = np.ones(2, F)
    graph = model(
        "g (float[n,2,3] x) => (float[n,2,3] y) { y = BatchNormalization(x, s, b, m, v) }",
        {"s": ones, "b": ones, "m": ones, "v": ones},
    )
    assert _trained_names(graph) == {"s", "b"}


def test_a_lone_number_is_part_of_a_formula_and_stays() -> None:
    graph = model(
        "g (float[n,3] x) => (float[n,3] y) { h = Mul(x, half)  y = Add(h, row) }",
        {"half": np.array([0.5], F), "row": np.ones(3, F)},
    )
    assert _trained_names(graph) == {"row"}


def test_a_table_that_is_added_elementwise_stays() -> None:
    graph = model(
        "g (float[n,3,4] x) => (float[n,3,4] y) { y = Add(x, anchors) }",
        {"anchors": np.ones((3, 4), F)},
    )
    assert _trained_names(graph) == set()


def test_a_weight_behind_a_transpose_is_trained() -> None:
    graph = model(
        "g (float[n,3] x) => (float[n,2] y) { t = Transpose(w)  y = MatMul(x, t) }",
        {"w": np.ones((2, 3), F)},
    )
    assert _trained_names(graph) == {"w"}


def test_sizes_of_a_resize_stay() -> None:
    graph = model(
        "g (float[1,1,2,2] x) => (float[1,1,4,4] y) { y = Resize(x, , scales) }",
        {"scales": np.array([1, 1, 2, 2], F)},
    )
    assert _trained_names(graph) == set()


def test_a_weight_that_two_nodes_share_is_trained_once() -> None:
    graph = model(
        "g (float[n,3] x) => (float[n,3] y) { h = MatMul(x, w)  y = MatMul(h, w) }",
        {"w": np.eye(3, dtype=F)},
    )
    module = GraphModule(graph, ("y",), train=True)
    assert len(module.weights) == 1
    moved = _initializers(_moved(graph))
    np.testing.assert_array_equal(moved["w"], np.eye(3) + 1)


def test_a_constant_node_stays_a_constant_node() -> None:
    graph = model(
        "g (float[n,2] x) => (float[n,2] y)"
        "{ w = Constant<value = float[2,2] {1, 2, 3, 4}>()  y = MatMul(x, w) }",
        {},
    )
    proto = io.to_proto(_moved(graph))
    assert [node.op_type for node in proto.graph.node] == ["Constant", "MatMul"]
    tensor = proto.graph.node[0].attribute[0].t
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), [[2, 3], [4, 5]])


def test_only_the_numbers_in_weights_change() -> None:
    graph = classifier(4, seed=0)
    graph.metadata_props["about"] = "kept"
    before, after = io.to_proto(graph), io.to_proto(_moved(graph))
    assert before != after
    for proto in (before, after):
        for tensor in proto.graph.initializer:
            tensor.raw_data = b""
    assert before == after


def test_untouched_weights_give_the_same_bytes() -> None:
    graph = classifier(4, seed=0)
    module = GraphModule(graph, ("y",), train=True)
    assert io.to_bytes(trained(graph, module)) == io.to_bytes(graph)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_the_element_type_is_kept(kind: Any) -> None:
    name = {np.float16: "float16", np.float64: "double"}[kind]
    graph = model(
        f"g ({name}[n,2] x) => ({name}[n,2] y) {{ y = MatMul(x, w) }}",
        {"w": np.eye(2, dtype=kind)},
    )
    moved = _initializers(_moved(graph))["w"]
    assert moved.dtype == kind
    np.testing.assert_array_equal(moved, np.eye(2) + 1)


def test_an_initializer_that_is_listed_as_an_input_is_trained() -> None:
    graph = model(
        "g (float[n,2] x, float[2,2] w) => (float[n,2] y) { y = MatMul(x, w) }",
        {"w": np.eye(2, dtype=F)},
        ir_version=4,
    )
    assert _trained_names(graph) == {"w"}


def test_weights_in_a_file_of_their_own_stay_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    big = classifier(64, seed=0, inputs=64)
    io.save(big, tmp_path / "a" / "m.onnx", external="file")
    moved = _moved(io.load(tmp_path / "a" / "m.onnx"))
    io.save(moved, tmp_path / "b" / "m.onnx")
    found = io.file_info(tmp_path / "b" / "m.onnx")
    assert found.external_files
    held = _initializers(io.load(tmp_path / "b" / "m.onnx"))
    np.testing.assert_allclose(held["w1"], _initializers(big)["w1"] + 1)


def test_weights_in_both_branches_of_an_if_are_trained() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        "g (float[n,2] x, bool c) => (float[n,2] y) {"
        "  y = If (c) <"
        "    then_branch = a () => (float[n,2] p) { p = MatMul(x, w) },"
        "    else_branch = b () => (float[n,2] q) { q = Add(x, r) }"
        "  >"
        "}"
    )
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, F), name)
        for name, shape in (("w", (2, 2)), ("r", (2,)))
    )
    assert _trained_names(io.load(proto)) == {"w", "r"}
