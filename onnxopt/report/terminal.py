"""A page drawn on a terminal."""

from __future__ import annotations

from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from onnxopt.report.page import (
    Bars,
    Block,
    Curve,
    Heading,
    Line,
    Page,
    Summary,
    Table,
    bar_text,
    curve_rows,
)

STYLES = {"plain": "", "good": "green", "bad": "bold red", "quiet": "dim"}
WIDEST = 120
_BAR = 20
_SPARK = 36
_NARROW = 12
_WORD = 16
"""Columns of words no longer than this are not folded while there are others to fold."""


def show(page: Page, *, file: IO[str] | None = None) -> None:
    """Draw `page` on `file` (standard output if None), as wide as the terminal up to 120."""
    console = Console(file=file, highlight=False)
    width = min(console.width, WIDEST)
    drawn_before = False
    for block in page:
        drawn = isinstance(block, Table | Bars | Curve)
        if drawn and drawn_before:
            console.print()
        _draw(console, block, width)
        drawn_before = drawn


def _draw(console: Console, block: Block, width: int) -> None:
    if isinstance(block, Heading):
        console.print(Text(f"\n{block.text}", style="bold"), width=width)
    elif isinstance(block, Line):
        console.print(Text(block.text, style=STYLES[block.tone]), width=width)
    elif isinstance(block, Summary):
        _draw(console, Heading("In short"), width)
        _draw(console, Line(block.text, block.tone), width)
    elif isinstance(block, Bars):
        rows = ((b.name, b.text, bar_text(b.length, block.longest, _BAR)) for b in block.bars)
        console.print(
            _table(Table((block.columns[0], f">{block.columns[1]}", ""), tuple(rows))), width=width
        )
    elif isinstance(block, Curve):
        columns = (block.y, ">lowest", ">highest", f"over {block.x}")
        console.print(_table(Table(columns, tuple(curve_rows(block, _SPARK)))), width=width)
    else:
        console.print(_table(block), width=width)


def _table(table: Table) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_header=any(table.columns),
        header_style="dim",
    )
    for place, column in enumerate(table.columns):
        short = max((len(row[place]) for row in table.rows), default=0) <= _WORD
        drawn.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=column.startswith(">") or short,
            min_width=None if short else _NARROW,
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn
