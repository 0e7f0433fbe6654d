"""A page as one HTML file: no scripts, nothing fetched, every name escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from onnxopt.report.charts import bar_svg, curve_svg
from onnxopt.report.page import Bars, Block, Curve, Heading, Line, Page, Summary, Table
from onnxopt.report.style import FRAME, STYLE

_LONG_CELL = 40
# What neither HTML nor a reader has a use for.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def html(page: Page) -> str:
    """The page as an HTML document: title and summary first, the rest in its own order."""
    title = next((block.text for block in page if isinstance(block, Heading)), "onnxopt")
    summaries = [block for block in page if isinstance(block, Summary)]
    rest = [block for block in page if not isinstance(block, Summary)]
    if rest and isinstance(rest[0], Heading):
        rest = rest[1:]
    parts = [f"<h1>{_text(title)}</h1>", *map(_block, summaries), *map(_block, rest)]
    return FRAME.format(title=_text(title), style=STYLE, body="\n".join(parts))


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{_text(block.text)}</h2>"
    if isinstance(block, Line):
        return f'<p class="{block.tone}">{_text(block.text)}</p>'
    if isinstance(block, Summary):
        return _summary(block)
    if isinstance(block, Bars):
        return _bars(block)
    if isinstance(block, Curve):
        return f"<figure>{_caption(block)}{curve_svg(block)}</figure>"
    return _table(block)


def _caption(block: Curve) -> str:
    """The name of the only line; several are named inside the picture."""
    if len(block.series) != 1:
        return ""
    return f"<figcaption>{_text(f'{block.y}, {block.series[0].name}')}</figcaption>"


def _summary(block: Summary) -> str:
    figures = "".join(
        f"<div><dt>{_text(each.name)}</dt><dd>{_text(each.after)}<small>"
        f"{_text(_before(each.before))}</small><small>{_text(each.change)}</small></dd></div>"
        for each in block.figures
    )
    drawn = f'<dl class="figures">{figures}</dl>' if figures else ""
    return f'<p class="verdict {block.tone}">{_text(block.text)}</p>{drawn}'


def _before(text: str) -> str:
    return f"from {text}" if text else ""


def _table(table: Table) -> str:
    kinds = [
        _kind(column, [row[i] for row in table.rows]) for i, column in enumerate(table.columns)
    ]
    names = [column.removeprefix(">") for column in table.columns]
    head = "".join(_cell("th", kind, name) for kind, name in zip(kinds, names, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(_cell('td', k, c) for k, c in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(names) else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{rows}\n</tbody></table></div>'


def _kind(column: str, cells: Sequence[str]) -> str:
    """How a column is set: numbers, short words that stay on a line, or text that may wrap."""
    if column.startswith(">"):
        return "number"
    return "wide" if max(map(len, cells), default=0) > _LONG_CELL else "short"


def _cell(tag: str, kind: str, text: str) -> str:
    return f'<{tag} class="{kind}">{_text(text)}</{tag}>'


def _bars(block: Bars) -> str:
    name, text = block.columns
    rows = "\n".join(
        f'<tr><td class="name">{_text(bar.name)}</td><td class="number">{_text(bar.text)}</td>'
        f'<td class="drawn">{bar_svg(bar, block.longest)}</td></tr>'
        for bar in block.bars
    )
    head = f'<tr><th>{_text(name)}</th><th class="number">{_text(text)}</th><th></th></tr>'
    return (
        f'<div class="scroll"><table class="bars"><thead>{head}</thead><tbody>\n{rows}\n'
        "</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(_CONTROL.sub("�", text), quote=True)
