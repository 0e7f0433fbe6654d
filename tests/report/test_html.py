"""The HTML face: one file that needs nothing else, the verdict first, whatever names hold."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
import report_samples as samples

from onnxopt.report.charts import HEIGHT, WIDTH, curve_svg, ticks
from onnxopt.report.html import html
from onnxopt.report.page import Bar, Bars, Curve, Heading, Line, Page, Series, Summary, Table
from onnxopt.report.pages import report_page
from onnxopt.report.quantization_page import quantization_page
from onnxopt.report.style import STYLE

VOID = {"meta", "rect", "line", "circle", "polyline"}


class Outline(HTMLParser):
    """Checks that tags match, and keeps the text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


PAGES: dict[str, Page] = {
    "optimize": report_page(samples.report(timing=samples.timing()), verbose=True),
    "quantize": quantization_page(samples.quantization(timing=samples.timing()), verbose=True),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_file_is_whole_and_fetches_nothing(page: Page) -> None:
    text = html(page)
    Outline(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"(src|href|url|@import|<script|<link)", text)


def test_the_verdict_stands_before_everything_else() -> None:
    text = html(PAGES["quantize"])
    assert text.index("it holds the budget") < text.index("<h2>") < text.index("QLinearConv")
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a"b', "a&b", "x" * 300])
def test_names_are_shown_as_they_are(name: str) -> None:
    layers = samples.layers(9, name)
    text = html(quantization_page(samples.quantization(source=name, layers=layers), verbose=True))
    found = Outline(text)
    assert f"{name}_1" in found.texts["td"]
    assert f"{name} → out.onnx" in found.texts["h1"]
    assert "<script>" not in text


def test_control_characters_do_not_reach_the_file() -> None:
    text = html((Heading("a\x00b\x1b[31m\ud800"), Line("c\x07")))
    assert not re.search(r"[\x00-\x08\x1b\ud800]", text)
    text.encode("utf-8")


def test_every_node_of_a_large_model_is_there_and_the_file_stays_small() -> None:
    text = html(quantization_page(samples.quantization(layers=samples.layers(500)), verbose=True))
    assert all(f">conv_{i}<" in text for i in range(500))
    assert len(text) < 400_000


def test_bars_are_as_long_as_their_share() -> None:
    block = Bars(("op", "count"), (Bar("a", 1, "1"), Bar("b", 4, "4", was=8), Bar("c", 0, "0")))
    text = html((block,))
    assert re.findall(r'class="now plain" y="3" width="([\d.]+)%"', text) == ["12.50", "50.00"]
    assert re.findall(r'class="was plain" y="0" width="([\d.]+)%"', text) == ["100.00"]


def test_a_curve_has_a_dot_with_a_name_for_each_point() -> None:
    points = ((0.0, 30.0), (1.0, 20.0))
    text = curve_svg(Curve("layer", "dB", (Series("sqnr", points, ("first", "<second>")),), 25.0))
    assert "<title>first 30</title>" in text
    assert "<title>&lt;second&gt; 20</title>" in text
    assert 'class="limit"' in text


def _legend_at(*ys: float) -> tuple[float, float]:
    """Where the legend of two lines through these heights begins."""
    points = tuple((float(x), y) for x, y in enumerate(ys))
    text = curve_svg(Curve("x", "y", (Series("a", points), Series("another", points))))
    x, y = re.findall(r'<circle class="dot n0" cx="([\d.]+)" cy="([\d.]+)" r="4"/>', text)[0]
    return float(x), float(y)


def test_the_legend_keeps_out_of_the_lines() -> None:
    falling_x, falling_y = _legend_at(10.0, 5.0, 0.0)
    rising_x, rising_y = _legend_at(0.0, 9.0, 10.0)
    assert falling_x > WIDTH / 2 and falling_y < HEIGHT / 2
    assert (rising_x > WIDTH / 2) == (rising_y > HEIGHT / 2)


def test_where_lines_pass_every_corner_the_legend_lies_between_them() -> None:
    lines = {"high": 8.8, "low": 1.2}
    series = tuple(Series(name, ((0.0, y), (1.0, y))) for name, y in lines.items())
    text = curve_svg(Curve("x", "y", series))
    _, top = re.findall(r'<circle class="dot n0" cx="([\d.]+)" cy="([\d.]+)" r="4"/>', text)[0]
    dots = re.findall(r'class="dot n\d" cx="[\d.]+" cy="([\d.]+)" r="3', text)
    heights = sorted(set(map(float, dots)))
    assert heights[0] + 4 < float(top) < heights[1] - 20


@pytest.mark.parametrize(("end", "shown"), [(0.599318, "0.599"), (6012.0, "6012")])
def test_the_ends_of_an_axis_are_easily_read(end: float, shown: str) -> None:
    text = curve_svg(Curve("x", "y", (Series("a", ((end, 0.0), (7000.0, 1.0))),)))
    assert f">{shown}</text>" in text


def test_six_lines_have_six_colours() -> None:
    series = tuple(Series(f"line {k}", ((0.0, k), (1.0, k + 1.0))) for k in range(6))
    found = set(re.findall(r'class="line (n\d)"', curve_svg(Curve("x", "y", series))))
    assert len(found) == 6 and all(f".{kind} " in STYLE for kind in found)


def test_a_curve_without_points_is_left_out() -> None:
    assert curve_svg(Curve("layer", "dB", (Series("sqnr", ()),))) == ""


@pytest.mark.parametrize("ends", [(0, 1), (21.5, 40.7), (-3, 1e6), (5, 5), (0, 0), (1e-9, 2e-9)])
def test_ticks_are_few_and_hold_both_ends(ends: tuple[float, float]) -> None:
    found = ticks(*ends)
    assert found[0] <= ends[0] and found[-1] >= ends[1]
    assert 2 <= len(found) <= 9
    assert all(map(math.isfinite, found))


def test_a_table_without_names_has_no_head() -> None:
    text = html((Table(("", ">"), (("a", "1"),)), Summary("done", "good")))
    assert "<thead>" not in text
    assert '<p class="verdict good">done</p>' in text
