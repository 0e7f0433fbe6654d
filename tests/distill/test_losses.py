"""Losses are nothing for equals, and what they say they are for others."""

from __future__ import annotations

import pytest
import torch

from onnxopt.distill.losses import Kind, Pair, loss_of, softening


def _loss(student: torch.Tensor, teacher: torch.Tensor, pair: Pair, **options: float) -> float:
    given = {"temperature": 1.0, "inner_weight": 1.0, **options}
    return float(loss_of([pair], {"s": student}, {"t": teacher}, **given))


@pytest.mark.parametrize("kind", ["kl", "mse", "cosine"])
def test_equals_have_no_loss(kind: Kind) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert _loss(x, x, Pair("t", "s", kind)) == pytest.approx(0, abs=1e-6)


def test_the_divergence_is_that_of_the_probabilities() -> None:
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.3, 0.3, 0.4]])
    expected = float((p * (p / q).log()).sum())
    scores = Pair("t", "s", "kl")
    assert _loss(q.log(), p.log() + 3, scores) == pytest.approx(expected, rel=1e-5)
    shares = Pair("t", "s", "kl", -1, "probabilities", "probabilities")
    assert _loss(q, p, shares) == pytest.approx(expected, rel=1e-5)


def test_a_temperature_softens_both_and_keeps_the_size_of_the_gradient() -> None:
    teacher = torch.zeros(1, 3)
    student = torch.tensor([[0.1, 0.0, -0.1]])
    pair = Pair("t", "s", "kl")
    cold, warm = (_loss(student, teacher, pair, temperature=t) for t in (1.0, 4.0))
    assert warm == pytest.approx(cold, rel=0.02)


def test_the_answers_of_a_sure_teacher_are_softened() -> None:
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 10
    pair = Pair("t", "s", "kl")
    heat = softening([pair], [{"t": scores[:20]}, {"t": scores[20:]}])
    assert heat > 4
    assert softening([pair], [{"t": scores / heat}]) == pytest.approx(1, abs=0.01)
    planes = Pair("t", "s", "kl", 1, "probabilities")
    shares = scores.softmax(1).reshape(5, 8, 5).movedim(2, 1)
    assert softening([planes], [{"t": shares}]) == pytest.approx(heat, rel=0.25)
    assert softening([Pair("t", "s", "mse")], [{"t": scores}]) == 1


def test_the_classes_may_lie_on_another_axis() -> None:
    student = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    first = _loss(student, teacher, Pair("t", "s", "kl", 1))
    last = _loss(student.movedim(1, -1), teacher.movedim(1, -1), Pair("t", "s", "kl", -1))
    assert first == pytest.approx(last, rel=1e-5)


def test_the_squared_error_does_not_depend_on_the_unit() -> None:
    student, teacher = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    pair = Pair("t", "s", "mse")
    assert _loss(student * 100, teacher * 100, pair) == pytest.approx(_loss(student, teacher, pair))


def test_inner_values_count_as_much_as_they_are_given_weight() -> None:
    pairs = [Pair("t", "s", "mse"), Pair("u", "v", "mse", inner=True)]
    one, two = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])
    student, teacher = {"s": two, "v": two}, {"t": one, "u": one}
    plain = float(loss_of(pairs, student, teacher, temperature=1.0, inner_weight=0.0))
    whole = float(loss_of(pairs, student, teacher, temperature=1.0, inner_weight=0.5))
    assert whole == pytest.approx(1.5 * plain)
