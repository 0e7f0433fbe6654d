"""A page as Markdown that also reads well as plain text, for files and pipes."""

from __future__ import annotations

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

_BAR = 24
_SPARK = 48


def markdown(page: Page) -> str:
    """The page as Markdown, ending in a line break."""
    return "\n\n".join(map(_block, page)) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_escaped(block.text)}"
    if isinstance(block, Line):
        return _escaped(block.text)
    if isinstance(block, Summary):
        return f"## In short\n\n{_escaped(block.text)}"
    if isinstance(block, Bars):
        rows = ((b.name, b.text, bar_text(b.length, block.longest, _BAR)) for b in block.bars)
        return _table(Table((block.columns[0], f">{block.columns[1]}", ""), tuple(rows)))
    if isinstance(block, Curve):
        columns = (block.y, ">lowest", ">highest", f"over {block.x}")
        return _table(Table(columns, tuple(curve_rows(block, _SPARK))))
    return _table(block)


def _table(table: Table) -> str:
    names = [column.removeprefix(">") for column in table.columns]
    right = [column.startswith(">") for column in table.columns]
    cells = [[_escaped(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    widths = [max(3, *map(len, column)) for column in zip(names, *cells, strict=True)]
    rule = [
        "-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, right, strict=True)
    ]
    rows = [_row(row, widths, right) for row in (names, rule, *cells)]
    return "\n".join(rows)


def _row(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = [
        cell.rjust(width) if end else cell.ljust(width)
        for cell, width, end in zip(cells, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _escaped(text: str) -> str:
    """`text` on one line, with what Markdown would take for markup made harmless."""
    return " ".join(text.split()).replace("<", "\\<")
