"""A page: what a record has to say, before it is drawn for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone = Literal["plain", "good", "bad", "quiet"]


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of what follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of its own."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names. Columns whose name starts with ">" are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block: TypeAlias = Heading | Line | Table
Page: TypeAlias = tuple[Block, ...]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[Block]:
    """A table, or nothing where there are no rows."""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    return [Table(tuple(columns), cells)] if cells else []


def section(title: str, blocks: Iterable[Block]) -> list[Block]:
    """The blocks under a heading, or nothing where there are none."""
    found = list(blocks)
    return [Heading(title), *found] if found else []


def bytes_text(size: float) -> str:
    """A size as people say it: "1.27 MB" (1 MB is 1,000,000 bytes)."""
    return _scaled(size, (" B", " kB", " MB", " GB", " TB"))


def count_text(number: float) -> str:
    """A count as people say it: "233", "41.2 M"."""
    return _scaled(number, ("", " k", " M", " G", " T"))


def _scaled(number: float, units: Sequence[str]) -> str:
    power = 0
    while abs(number) >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    if power == 0:
        return f"{number:.0f}{units[0]}"
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}{units[power]}"


def change_text(before: float, after: float) -> str:
    """The change from `before` to `after` in per cent, empty where there is none."""
    if before == after or not before:
        return "" if before == after else "new"
    percent = 100 * (after - before) / before
    if abs(percent) < 0.05:
        return "under 0.1 %"
    return f"{percent:+.0f} %" if abs(percent) >= 1 else f"{percent:+.1f} %"


def plural(number: int, noun: str, many: str = "") -> str:
    """ "1 node", "2 nodes"."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def listing(items: Sequence[str], *, most: int = 3) -> str:
    """The first items, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"
