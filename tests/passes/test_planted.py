"""Passes that are wrong on purpose are caught, undone and named, and the others still run."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxopt import io
from onnxopt.check.parity import Reference
from onnxopt.passes import manager, shapes
from onnxopt.passes.base import Context, PassResult
from tests.planted import FAULTS, Planted, faults_for

MODELS = Path(__file__).resolve().parents[2] / "models"

SMALL = """
<ir_version: 8, opset_import: ["" : 13], metadata_props: ["labels": "cat,dog"]>
g (float[N,4] x, float[4] offset) => (float[N,4] y, float[N,4] z)
<float[4,4] w = {1, 2, 3, 4, 0, 1, 0, 1, -1, 2, 1, 0, 2, 1, 0, -1}>
{
    moved = Add(x, offset)
    h = MatMul(moved, w)
    r = Relu(h)
    y = Softmax <axis = 1> (r)
    z = Neg(h)
}
"""


@dataclass(frozen=True, slots=True)
class Honest:
    """A pass that keeps its promises: it says that it was here."""

    name: str

    def run(self, model: ir.Model, context: Context) -> PassResult:
        model.graph.metadata_props[self.name] = "here"
        return PassResult(changed=True, hits={self.name: 1})


@functools.cache
def source(name: str) -> onnx.ModelProto:
    if name == "small":
        return onnx.parser.parse_model(SMALL)
    return onnx.load(MODELS / f"{name}.onnx")


@functools.cache
def reference(name: str) -> Reference:
    return Reference(source(name), threads=1)


@functools.cache
def prepared(name: str) -> ir.Model:
    model = io.load(source(name)).clone()
    shapes.remember(model)
    shapes.infer(model)
    return model


def cases() -> list[tuple[str, Planted]]:
    names = ("small", "digits_mlp", "mnist_cntk")
    found = [(name, fault) for name in names for fault in faults_for(prepared(name))]
    # A larger model costs seconds each time, so it gets one fault of each kind of proof.
    large = ("wrong_axis", "dropped_output", "dangling_value")
    return found + [("ultraface", fault) for fault in FAULTS if fault.name in large]


def run(name: str, *passes: object) -> manager.Outcome:
    return manager.run(prepared(name), passes, Context(), prove=reference(name).parity)


@pytest.mark.parametrize(("name", "fault"), cases(), ids=lambda item: getattr(item, "name", item))
def test_a_fault_is_caught_undone_and_named_and_the_rest_goes_on(name: str, fault: Planted) -> None:
    outcome = run(name, Honest("first"), fault, Honest("last"))
    verdicts = {step.name: step.verdict for step in outcome.steps}
    assert verdicts == {"first": "kept", fault.name: "undone", "last": "kept"}
    assert fault.word in next(step.reason for step in outcome.steps if step.name == fault.name)
    assert outcome.parity is not None
    assert outcome.parity.passed
    expected = run(name, Honest("first"), Honest("last")).model
    assert saved(outcome.model) == saved(expected)


def saved(model: ir.Model) -> onnx.ModelProto:
    return io.to_proto(shapes.declared_copy(model))


def test_every_fault_has_room_in_some_model() -> None:
    assert {fault.name for _, fault in cases()} == {fault.name for fault in FAULTS}


def test_several_faults_in_one_pipeline_are_each_named() -> None:
    guilty = [fault for fault in faults_for(prepared("small")) if fault.word == "changed"]
    mixed = [guilty[0], Honest("first"), *guilty[1:], Honest("last")]
    outcome = run("small", *mixed)
    undone = [step.name for step in outcome.steps if step.verdict == "undone"]
    assert undone == [fault.name for fault in guilty]
    assert dict(outcome.model.graph.metadata_props) == {"first": "here", "last": "here"}


def test_a_fault_that_claims_to_have_changed_nothing_changes_nothing() -> None:
    @dataclass(frozen=True, slots=True)
    class Liar:
        name: str = "liar"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            model.graph[0].op_type = "Sub"
            return PassResult(changed=False)

    outcome = run("small", Liar())
    assert outcome.model.graph[0].op_type == "Add"


def test_faults_of_the_interface_are_caught_without_a_proof_too() -> None:
    model = prepared("small")
    for fault in faults_for(model):
        if fault.word in ("is gone", "is new", "is now called", "changed its type"):
            outcome = manager.run(model, [fault], Context())
            assert outcome.steps[0].verdict == "undone"
