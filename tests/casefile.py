"""Reads tests/cases/<rule>.txt: titled before/after models in ONNX text with a verdict.

    == title of the situation
    <ir_version: 10, opset_import: ["" : 21]>        (may be left out: this is the default)
    g (float[2] x) => (float[2] y) { y = Identity(x) }
    == becomes                                        (or `== stays`, or `== refuses: reason`)
    g (float[2] x) => (float[2] y) { y = Relu(x) }

A `becomes` model may leave its initializers' contents open by writing `?` rules instead of them:
form is compared by ops, wiring and attributes; contents are proven by running both.
Lines that start with # are comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx

CASES = Path(__file__).parent / "cases"
HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


@dataclass(frozen=True)
class Case:
    rule: str
    title: str
    before: str
    verdict: str
    after: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.title}"


def parse(text: str) -> onnx.ModelProto:
    """A model from ONNX text; the default header is put in front where there is none."""
    body = text.strip()
    return onnx.parser.parse_model(body if body.startswith("<") else HEADER + body)


def read(path: Path) -> list[Case]:
    """The cases of one file. Raises ValueError where the file is not written as it must be."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    parts = re.split(r"^== *(.*)$", "\n".join(lines), flags=re.MULTILINE)[1:]
    sections = list(zip(parts[0::2], parts[1::2], strict=True))
    cases, index = [], 0
    while index < len(sections):
        title, before = sections[index]
        if index + 1 >= len(sections):
            raise ValueError(f"{path.name}: {title!r} has no verdict")
        verdict, after = sections[index + 1]
        word, _, reason = verdict.partition(":")
        if word not in {"becomes", "stays", "refuses"}:
            raise ValueError(f"{path.name}: {verdict!r} is no verdict")
        cases.append(Case(path.stem, title, before, word, after, reason.strip()))
        index += 2
    return cases


def all_cases() -> list[Case]:
    return [case for path in sorted(CASES.glob("*.txt")) for case in read(path)]
