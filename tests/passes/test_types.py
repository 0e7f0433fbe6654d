"""What the tables say of types is what ONNX's inference finds, and it is not asked in vain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import corpus
import onnx
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt import io
from onnxopt.passes import shapes
from onnxopt.passes.types import output_types

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo" / "models"
REAL = [*sorted((ROOT / "models").glob("*.onnx")), *sorted(ZOO.glob("*/model.onnx"))]


def differing(model: ir.Model) -> Iterator[str]:
    """The values of which the tables and the annotations say different types, with both."""
    for node in model.graph:
        types = output_types(node)
        for value, found in zip(node.outputs, types or (), strict=types is not None):
            if value.type is not None and value.type != found:
                yield f"{node.op_type} {value.name}: {value.type} but {found}"


def of_onnx(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    """The model, its types and shapes found with ONNX's inference."""
    monkeypatch.setattr(shapes, "output_types", lambda node: None)
    shapes.infer(model)
    monkeypatch.undo()
    return model


def annotations(model: ir.Model) -> list[tuple[str | None, str, str]]:
    """Name, type and shape of every value that a node of the main graph gives."""
    values = (value for node in model.graph for value in node.outputs)
    return [(value.name, str(value.type), str(value.shape)) for value in values]


@pytest.mark.parametrize("path", REAL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_real_model_has_the_types_and_shapes_of_the_long_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = io.load(path)
    long_way = of_onnx(model.clone(), monkeypatch)
    assert not list(differing(long_way))
    shapes.infer(model)
    assert annotations(model) == annotations(long_way)


def test_operators_of_the_suite_have_the_types_of_the_long_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, wrong = set(), list[str]()
    for case in corpus.cases():
        model = of_onnx(ir.from_proto(case.model()), monkeypatch)
        known |= {node.op_type for node in model.graph if output_types(node) is not None}
        wrong += differing(model)
    assert not wrong
    assert len(known) > 90, "the suite holds few of the operators in the tables"


def test_onnx_is_not_asked_where_our_own_rules_find_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(onnx.shape_inference, "infer_shapes")
    model = io.load(ROOT / "models" / "cifar_resnet20.onnx")
    shapes.infer(model)
    last = model.graph.outputs[0]
    assert (last.dtype, last.shape) == (ir.DataType.FLOAT, ["batch", 10])


@pytest.mark.parametrize(
    "text",
    [
        "g (float[n,4] x) => (y) { y = TopKOfNobody(x) }",
        "g (float[n,4] x, int64[k] s) => (y) { y = Reshape(x, s) }",
        "g (float x, bool c) => (y) { y = If(c) <then_branch = a () => (float p) { p = Neg(x) },"
        " else_branch = b () => (float q) { q = Abs(x) }> }",
    ],
)
def test_onnx_is_asked_where_they_do_not(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    infer_shapes = onnx.shape_inference.infer_shapes

    def asking(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        asked.append(proto)
        return infer_shapes(proto, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", asking)
    shapes.infer(ir.from_proto(parse(text)))
    assert len(asked) == 1
