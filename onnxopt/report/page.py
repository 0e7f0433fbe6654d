"""A page: what a record has to say, before it is drawn for a terminal, as Markdown or as HTML."""

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


@dataclass(frozen=True, slots=True)
class Bar:
    """A named length, 0 or more, with the words that say it; `was` is what it was before."""

    name: str
    length: float
    text: str
    was: float | None = None
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of one scale under each other; `columns` say what the names and the words are."""

    columns: tuple[str, str]
    bars: tuple[Bar, ...]

    @property
    def longest(self) -> float:
        """The length that fills the width; never 0."""
        return max((max(bar.length, bar.was or 0.0) for bar in self.bars), default=0.0) or 1.0


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) in the order of x, with a name each where they have one."""

    name: str
    points: tuple[tuple[float, float], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """Series over the same axes; `x` and `y` say what is measured. `limit` is a y to stay above."""

    x: str
    y: str
    series: tuple[Series, ...]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that changed: what it is of, what it was, what it is, and by how much."""

    name: str
    before: str
    after: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """The page in a sentence, and the figures it rests on."""

    text: str
    tone: Tone = "plain"
    figures: tuple[Figure, ...] = ()


Block: TypeAlias = Heading | Line | Table | Bars | Curve | Summary
Page: TypeAlias = tuple[Block, ...]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[Block]:
    """A table, or nothing where there are no rows."""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    return [Table(tuple(columns), cells)] if cells else []


def bars(columns: tuple[str, str], rows: Iterable[Bar]) -> list[Block]:
    """Bars, or nothing where there are none."""
    found = tuple(rows)
    return [Bars(columns, found)] if found else []


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


_STEPS = "▁▂▃▄▅▆▇█"


def bar_text(length: float, longest: float, width: int) -> str:
    """A bar of blocks; one that is not 0 is seen."""
    share = min(length / longest, 1.0) if longest else 0.0
    return "█" * (max(1, round(share * width)) if share > 0 else 0)


def spark_text(series: Series, width: int) -> str:
    """The series as a line of blocks; the smallest of those that share a block is shown."""
    heights = [y for _, y in series.points]
    low, high = min(heights), max(heights)
    count = min(width, len(heights))
    found = []
    for index in range(count):
        start, end = (len(heights) * (index + step) // count for step in (0, 1))
        share = (min(heights[start:end]) - low) / ((high - low) or 1.0)
        found.append(_STEPS[round(share * (len(_STEPS) - 1))])
    return "".join(found)


def curve_rows(curve: Curve, width: int) -> list[tuple[str, str, str, str]]:
    """What stands for a curve where nothing can be drawn: name, smallest, largest, shape."""
    rows = []
    for series in curve.series:
        heights = [y for _, y in series.points]
        if heights:
            ends = (f"{min(heights):.4g}", f"{max(heights):.4g}")
            rows.append((series.name, *ends, spark_text(series, width)))
    return rows
