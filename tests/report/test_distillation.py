"""What a distillation says on its page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxopt.check.metric import Score
from onnxopt.report.distillation import (
    CurvePoint,
    DistillReport,
    Pairing,
    distillation_page,
)
from onnxopt.report.html import html
from onnxopt.report.markdown import markdown
from tests.report_samples import VERSIONS

START = CurvePoint(0, 1.0, None, 0.8, 1e-4)
BEST = CurvePoint(50, 30.0, 0.4, 0.3, 2e-4)
LAST = CurvePoint(100, 60.0, 0.35, 0.31, 0.0)


def _report(**changes: Any) -> DistillReport:
    plain = DistillReport(
        teacher="large.onnx",
        student="small.onnx",
        output="out.onnx",
        stopped="done",
        curve=(START, BEST, LAST),
        best=BEST,
        before=Score("agreement", 1.0, 0.7, 0.3, 20),
        after=Score("agreement", 1.0, 0.9, 0.1, 20),
        pairs=(Pairing("y", "y", "kl"), Pairing("h", "h2", "mse", True)),
        weights=12,
        coded=0,
        numbers=4_600_000,
        training_samples=180,
        held_samples=20,
        steps=100,
        torch="2.13.0",
        device="cpu",
        versions=VERSIONS,
    )
    return replace(plain, **changes)


def _text(report: DistillReport, *, verbose: bool = False) -> str:
    return markdown(distillation_page(report, verbose=verbose))


def test_the_page_says_how_far_the_loss_fell() -> None:
    text = _text(_report())
    assert "The loss on held samples fell from 0.8 to 0.3; it ran to its end." in text
    assert "12 weights (4.60 M numbers) were trained in 100 steps on 180 samples" in text


def test_the_page_says_how_near_the_student_is_to_its_teacher() -> None:
    assert "| agreement           |    0.7 |   0.9 |      20 |" in _text(_report())


def test_a_training_that_brought_nothing_says_so() -> None:
    report = _report(best=START)
    assert not report.improved
    assert "No weights were better than the student's own" in _text(report)


def test_a_training_that_diverged_does_not_pass() -> None:
    report = _report(stopped="diverged")
    assert not report.passed
    assert "not finite any more" in _text(report)


def test_inner_values_are_listed_on_demand() -> None:
    assert "And 1 inner value: h2." in _text(_report())
    assert "| h       | h2      | mse  |" in _text(_report(), verbose=True)


def test_codes_are_counted() -> None:
    assert "3 of them kept as integers" in _text(_report(coded=3))


def test_the_curve_is_drawn_in_html() -> None:
    page = html(distillation_page(_report()))
    assert "<svg" in page and "held samples" in page
