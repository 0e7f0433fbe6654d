"""Numbers and tables come out as people write them, in Markdown and on a terminal."""

from __future__ import annotations

import io

import pytest

from onnxopt.report import terminal
from onnxopt.report.markdown import markdown
from onnxopt.report.page import (
    Bar,
    Bars,
    Curve,
    Heading,
    Line,
    Page,
    Series,
    Summary,
    Table,
    bytes_text,
    change_text,
    count_text,
    listing,
    section,
    table,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_270_727, "1.27 MB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (2_147_483_648, "2.15 GB"),
    ],
)
def test_bytes_are_given_in_decimal_units(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_counts_have_three_digits() -> None:
    assert [count_text(n) for n in (7, 41_234_567, 12_345)] == ["7", "41.2 M", "12.3 k"]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (233, 75, "-68 %"),
        (1000, 997, "-0.3 %"),
        (100_000, 99_999, "under 0.1 %"),
        (5, 5, ""),
        (0, 0, ""),
        (0, 3, "new"),
    ],
)
def test_a_change_is_given_in_per_cent(before: int, after: int, text: str) -> None:
    assert change_text(before, after) == text


def test_a_long_list_is_cut_with_a_count() -> None:
    assert listing(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert listing(["a", "b"]) == "a, b"


def test_an_empty_table_leaves_no_heading() -> None:
    assert section("Undone", table(("a",), [])) == []


def test_markdown_lines_up_and_can_not_be_broken_by_names() -> None:
    page = (
        Heading("a <b> c"),
        Table(("name", ">nodes"), (("x|y\nz", "1,234"), ("<init>", "7"))),
        Line("done"),
    )
    assert markdown(page) == (
        "## a \\<b> c\n\n"
        "| name    | nodes |\n"
        "| ------- | ----: |\n"
        "| x\\|y z  | 1,234 |\n"
        "| \\<init> |     7 |\n\n"
        "done\n"
    )


def test_brackets_in_names_are_no_terminal_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    drawn = io.StringIO()
    terminal.show((Table(("dim", ">size"), (("[red]x[/red]", "[1, 2]"),)), Line("[b]")), file=drawn)
    text = drawn.getvalue()
    assert "[red]x[/red]" in text
    assert "[1, 2]" in text
    assert "[b]" in text


def _drawn(page: Page, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    drawn = io.StringIO()
    terminal.show(page, file=drawn)
    return drawn.getvalue()


def test_a_narrow_terminal_folds_names_and_never_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ("node", "op", *(f">number {i}" for i in range(6)))
    text = _drawn((Table(columns, (("name" * 20, "Conv", *["-12345.5"] * 6),)),), monkeypatch)
    assert text.count("-12345.5") == 6
    assert text.replace("\n", "").replace(" ", "").count("name") > 10
    assert "Conv" in text


def test_charts_have_a_shape_in_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (
        Bars(("op", "count"), (Bar("a", 1.0, "1"), Bar("b", 2.0, "2"), Bar("c", 0.0, "0"))),
        Curve("step", "loss", (Series("held", ((0.0, 4.0), (1.0, 2.0), (2.0, 3.0))),)),
        Summary("it fell", "good"),
    )
    for text in (markdown(page), _drawn(page, monkeypatch)):
        lengths = [line.count("█") for line in text.splitlines() if "█" in line]
        assert lengths[1] == 2 * lengths[0]
        assert "█▁" in text
        assert "In short" in text and "it fell" in text
