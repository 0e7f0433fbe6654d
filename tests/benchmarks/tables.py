"""What a section of the benchmark hands back, and how it is written down."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxopt.report.page import Page


@dataclass(frozen=True, slots=True)
class Section:
    """One table: what it shows, its rows, and the few numbers that sum it up.

    A column whose name starts with ">" is aligned to the right. `picture` is what else is drawn,
    as HTML.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: Mapping[str, str]
    data: Mapping[str, Any]
    notes: Sequence[str] = ()
    picture: Page = ()

    def markdown(self) -> str:
        """The section as Markdown: the summary first, then the rows."""
        parts = [f"## {self.title}", self.text]
        if self.summary:
            parts.append(markdown(("", ">"), list(self.summary.items())))
        parts.append(markdown(self.columns, self.rows))
        parts += ["\n".join(f"* {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    marks = ["---:" if column.startswith(">") else "---" for column in columns]
    lines = [[column.removeprefix(">") for column in columns], marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios; NaN of none."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan
