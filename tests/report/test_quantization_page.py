"""What a reader is told of a quantization: decision, stages, what costs accuracy, every node."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import report_samples as samples

from onnxopt.quantize.search import Island
from onnxopt.report.markdown import markdown
from onnxopt.report.page import Bars, Curve, Summary
from onnxopt.report.quantization_page import quantization_page


def test_the_stages_stand_under_each_other() -> None:
    text = markdown(quantization_page(samples.quantization()))
    assert "| original  |   233 | 1.29 MB | 40.6 M |" in text
    assert "| quantized |   233 |  338 kB | 40.6 M |     0.985 |" in text


def test_the_worst_layer_comes_first_with_its_times() -> None:
    text = markdown(quantization_page(samples.quantization()))
    rows = [line for line in text.splitlines() if line.startswith("| conv_")]
    assert rows[0].startswith("| conv_5 | Conv | QLinearConv |    23.3 |     0.04 |   0.02 |")
    assert len(rows) == 4


def test_all_nodes_are_listed_with_reasons_where_everything_is_asked_for() -> None:
    text = markdown(quantization_page(samples.quantization(), verbose=True))
    assert "| conv_0 | Conv | float " in text
    assert "| it has a kernel " in text
    assert "| int8 per channel |" in text
    assert "## What fired" in text


def test_the_course_along_the_network_is_a_curve() -> None:
    page = quantization_page(samples.quantization())
    curve = next(block for block in page if isinstance(block, Curve))
    assert curve.series[0].names == ("conv_1", "conv_2", "conv_4", "conv_5")
    assert "█" in markdown(page)


def test_islands_are_bars_of_the_noise_they_cause() -> None:
    islands = (Island(("a",), -math.inf), Island(("b", "c"), 10.0), Island(("d",), math.inf))
    page = quantization_page(samples.quantization(islands=islands))
    bars = next(block for block in page if isinstance(block, Bars))
    assert [bar.length for bar in bars.bars] == [1.0, 0.1, 0.0]
    assert "was not measured" not in markdown(page)


def test_what_was_not_measured_is_said() -> None:
    assert "costs by itself was not measured" in markdown(quantization_page(samples.quantization()))


def test_a_missed_budget_is_the_verdict() -> None:
    missed = samples.quantization(verdict="over budget", reason="agreement drops by 0.2")
    summary = quantization_page(missed)[-1]
    assert isinstance(summary, Summary)
    assert (summary.tone, summary.text) == ("bad", "The budget is missed: agreement drops by 0.2.")


@pytest.mark.parametrize(
    ("mode", "verdict", "words"),
    [
        ("static", "int8", "Quantized: it"),
        ("weights", "int4", "Quantized (weights, int4): it"),
        ("fp16", "fp16", "Quantized (fp16): it"),
        ("dynamic", "float", "The float model is kept: it"),
    ],
)
def test_the_mode_is_named_where_it_is_not_the_usual_one(
    mode: str, verdict: str, words: str
) -> None:
    page = quantization_page(samples.quantization(mode=mode, verdict=verdict))
    assert isinstance(page[-1], Summary)
    assert page[-1].text.startswith(words)


def test_an_optimized_model_that_does_not_agree_is_said_first() -> None:
    report = samples.quantization(optimization=samples.report(parity=samples.DIFFERS))
    summary = quantization_page(report)[-1]
    assert not report.passed
    assert isinstance(summary, Summary)
    assert summary.text == "The optimized model does not agree with the model: nothing was written."


def test_the_figures_say_accuracy_time_and_size() -> None:
    summary = quantization_page(samples.quantization(timing=samples.timing()))[-1]
    assert isinstance(summary, Summary)
    found = {figure.name: (figure.before, figure.after) for figure in summary.figures}
    assert found["agreement"] == ("1", "0.985")
    assert found["time of a run"] == ("2 ms", "1 ms")
    assert found["size"] == ("1.12 MB", "338 kB")
    assert found["nodes quantized"] == ("", "4 of 6")


def test_a_plan_alone_has_a_page_too() -> None:
    bare = samples.quantization(
        verdict="planned", score=None, sqnr_db=None, bytes=None, stages=(), optimization=None,
        layers=tuple(replace(layer, sqnr_db=None) for layer in samples.layers(3)),
    )  # fmt: skip
    text = markdown(quantization_page(bare, verbose=True))
    assert "Planned: 2 nodes in integers." in text
    assert "What costs accuracy" not in text
