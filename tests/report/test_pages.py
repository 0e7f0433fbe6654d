"""What a reader is told: verdicts first, reasons counted, nothing hidden that failed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import report_samples as samples

from onnxopt.config import Exactness
from onnxopt.passes.base import Step
from onnxopt.report.markdown import markdown
from onnxopt.report.pages import parity_page, report_page, timing_page


def test_a_report_says_sizes_hits_and_the_short_of_it() -> None:
    text = markdown(report_page(samples.report()))
    assert "233" in text
    assert "-68 %" in text
    assert "MACs (batch=1)" in text
    assert "| rewrite | fuse_gelu |    40 |" in text
    assert text.rstrip().endswith("233 → 75 nodes, 1.29 MB → 1.12 MB, outputs agree, not timed")


def test_an_undone_step_is_named_with_its_reason() -> None:
    undone = Step("mine", True, verdict="undone", reason="the input 'x' is gone")
    text = markdown(report_page(samples.report(steps=(undone,))))
    assert "mine was taken back: the input 'x' is gone" in text
    assert "1 step undone" in text
    assert "Nothing: the model is as it was." in text


def test_a_failed_proof_is_the_last_word() -> None:
    text = markdown(report_page(samples.report(parity=samples.DIFFERS)))
    assert "These outputs differ: y." in text
    assert "3 of 10 differ" in text
    assert text.rstrip().endswith("nothing was written.")


def test_only_the_first_reasons_are_shown_unless_all_are_asked_for() -> None:
    many = tuple(
        refusal for i in range(20) for refusal in samples.refusals(f"reason {i:02}", "a", "b")
    )
    report = samples.report(steps=(Step("rewrite", False, refusals=many),))
    short, full = (markdown(report_page(report, verbose=v)) for v in (False, True))
    assert "reason 07" in short
    assert "reason 08" not in short
    assert "and 12 more reasons" in short
    assert "reason 19" in full


def test_notes_are_shown() -> None:
    assert "--freeze-inputs" in markdown(
        report_page(samples.report(notes=("--freeze-inputs would help",)))
    )


@pytest.mark.parametrize(
    ("verdict", "ratio", "words"),
    [
        ("faster", 2.0, "faster by 2.00x"),
        ("slower", 0.5, "slower by 2.00x"),
        ("no measurable change", 1.01, "after: no measurable change (95%"),
        ("no measurable change", 2.0, "after: faster by about 2.00x, in few rounds (95%"),
        ("no measurable change", 0.5, "after: slower by about 2.00x, in few rounds (95%"),
    ],
)
def test_a_timing_prints_a_factor_only_where_there_is_one(
    verdict: str, ratio: float, words: str
) -> None:
    text = markdown(timing_page(samples.timing(verdict, ratio)))
    assert words in text
    assert "Noise floor 2.0 %" in text


def test_memory_is_a_column_only_where_it_was_measured() -> None:
    assert "memory" not in markdown(timing_page(samples.timing()))
    assert "12.0 MB" in markdown(timing_page(samples.timing(peak=12_000_000)))


def test_parity_says_how_much_of_the_tolerance_was_used() -> None:
    text = markdown(parity_page(samples.AGREES))
    assert "agree up to rounding in 3 runs, using 5 % of the tolerance" in text
    exact = replace(
        samples.AGREES,
        exactness=Exactness.EXACT,
        runs=1,
        outputs=(replace(samples.AGREES.outputs[0], worst=0.0),),
    )
    assert "agree exactly in 1 run, to the bit" in markdown(parity_page(exact))


def test_a_candidate_that_does_not_run_is_said_first() -> None:
    failed = replace(samples.DIFFERS, failure="the candidate does not load: no such op")
    assert markdown(parity_page(failed)).startswith("The candidate does not load: no such op.")


def test_a_random_reference_is_said() -> None:
    loose = replace(samples.AGREES, deterministic=False)
    assert "gives other numbers when it runs again" in markdown(parity_page(loose))
