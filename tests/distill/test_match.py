"""What follows what: inputs, outputs and inner values of a teacher and a student."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.distill.losses import Pair
from onnxopt.distill.match import match
from onnxopt.distill.settings import Settings
from onnxopt.errors import BadInput
from tests.distill.models import classifier, model, rows

F = np.float32
FEED = {"x": rows(1)["x"]}


def _pairs(teacher: Any, student: Any, **options: Any) -> tuple[Pair, ...]:
    return match(teacher, student, Settings(**options), FEED).pairs


def _dense(outputs: str, body: str, *, classes: int = 3) -> Any:
    return model(f"g (float[n,8] x) => ({outputs}) {{ {body} }}", {"w": np.ones((8, classes), F)})


def test_scores_of_classes_are_taught_by_their_divergence() -> None:
    assert [(p.teacher, p.student, p.kind) for p in _pairs(classifier(4, 0), classifier(2, 1))] == [
        ("y", "y", "kl")
    ]


def test_probabilities_and_scores_can_teach_each_other() -> None:
    student = _dense("float[n,3] y", "h = MatMul(x, w)  y = Softmax(h)")
    (pair,) = _pairs(classifier(4, 0), student)
    assert (pair.kind, pair.teacher_scale, pair.student_scale) == ("kl", "scores", "probabilities")


def test_a_single_number_is_taught_by_its_squared_error() -> None:
    one = _dense("float[n,1] y", "y = MatMul(x, w)", classes=1)
    assert _pairs(one, one)[0].kind == "mse"


def test_the_loss_is_the_one_that_was_asked_for() -> None:
    assert _pairs(classifier(4, 0), classifier(2, 1), loss="cosine")[0].kind == "cosine"


def test_outputs_of_other_names_go_by_their_order() -> None:
    student = _dense("float[n,3] z", "z = MatMul(x, w)")
    assert [(p.teacher, p.student) for p in _pairs(classifier(4, 0), student)] == [("y", "z")]


def test_an_output_of_labels_is_left_out() -> None:
    student = _dense(
        "int64[n] label, float[n,3] y",
        "y = MatMul(x, w)  label = ArgMax<axis = 1, keepdims = 0>(y)",
    )
    assert [p.student for p in _pairs(student, student)] == ["y"]


def test_inputs_of_other_names_go_by_their_order() -> None:
    teacher = model(
        "g (float[n,8] z) => (float[n,3] y) { y = MatMul(z, w) }", {"w": np.ones((8, 3), F)}
    )
    assert match(teacher, classifier(2, 1), Settings(), FEED).inputs == {"z": "x"}


def test_other_classes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\[1, 3\] .* \[1, 5\]"):
        _pairs(classifier(4, 0), classifier(4, 0, classes=5))


def test_other_inputs_are_refused() -> None:
    with pytest.raises(BadInput, match="the teacher takes"):
        _pairs(classifier(4, 0, inputs=9), classifier(4, 0))


def test_outputs_of_other_names_and_number_are_refused() -> None:
    student = _dense("float[n,3] a, float[n,3] b", "a = MatMul(x, w)  b = Relu(a)")
    with pytest.raises(BadInput, match="the teacher gives y and the student a, b"):
        _pairs(classifier(4, 0), student)


def test_inner_values_are_matched_by_the_names_given() -> None:
    pairs = _pairs(classifier(4, 0), classifier(4, 1), match=(("r", "r"),))
    assert [(p.student, p.inner, p.kind) for p in pairs] == [("y", False, "kl"), ("r", True, "mse")]


def test_inner_values_of_other_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'r' is \[1, 4\] and the student's 'r' \[1, 2\]"):
        _pairs(classifier(4, 0), classifier(2, 1), match=(("r", "r"),))


def test_an_inner_value_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="the teacher has no value 'nowhere'"):
        _pairs(classifier(4, 0), classifier(4, 1), match=(("nowhere", "r"),))


def test_inner_values_of_one_name_and_shape_are_found() -> None:
    found = match(classifier(4, 0), classifier(4, 1), Settings(match="auto"), FEED)
    assert [p.student for p in found.pairs if p.inner] == ["h", "r"]
    assert "2 inner values were matched" in found.notes


def test_by_default_only_inner_values_that_are_nearly_the_same_are_matched() -> None:
    teacher = classifier(4, 0)
    near, far = classifier(4, 0), classifier(4, 1)
    near.graph.initializers["b1"].const_value = ir.tensor(np.full(4, 0.01, F), name="b1")
    assert [p.student for p in _pairs(teacher, near) if p.inner] == ["h", "r"]
    assert [p.student for p in _pairs(teacher, far) if p.inner] == []
    assert [p.student for p in _pairs(teacher, near, match=()) if p.inner] == []


def test_without_common_names_the_last_of_each_shape_are_matched() -> None:
    student = model(
        "g (float[n,8] x) => (float[n,3] y)"
        "{ a = MatMul(x, v)  b = Relu(a)  c = MatMul(b, u)  d = Relu(c)  y = MatMul(d, w) }",
        {"v": np.ones((8, 5), F), "u": np.ones((5, 4), F), "w": np.ones((4, 3), F)},
    )
    pairs = _pairs(classifier(4, 0), student, match="auto")
    assert [(p.teacher, p.student) for p in pairs if p.inner] == [("r", "d")]


def test_a_pruned_student_has_no_inner_value_where_shapes_differ() -> None:
    pairs = _pairs(classifier(4, 0), classifier(2, 1), match="auto")
    assert [p for p in pairs if p.inner] == []
