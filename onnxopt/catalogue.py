"""A rule's page, drawn from the rule itself: for `onnxopt rules NAME` and rules/README.md.

`python -m onnxopt.catalogue rules/README.md` writes the catalogue; with `--check` it only says
whether the file is up to date.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

from onnxopt import registry
from onnxopt.errors import OnnxoptError
from onnxopt.report.page import Line, Page, plural, section, table
from onnxopt.rewrite.engine import CompiledRule

CASES = Path(__file__).parents[1] / "tests" / "cases"
EXACTNESS = {
    "exact": "the same bits for every input",
    "close": "the same function; rounding may differ",
    "lossy": "a different function on purpose",
}
KINDS = {
    "drop": "Take out what does nothing",
    "fold": "Merge constants into a neighbour",
    "fuse": "Put one operator in the place of several",
    "move": "Bring operators to where they cost less or cancel",
    "split": "Put several operators in the place of one",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule as its page shows it.

    `summary` is the first line of its docstring and `details` the rest; `opsets` are the first and
    last opset it knows (last None: every later one); `off_because` says why it is off without
    --enable, empty for most; `cases` are the titles of its tested
    situations with their verdicts, empty where the repository is not at hand.
    """

    name: str
    kind: str
    summary: str
    details: str
    exactness: str
    before: str
    after: str
    opsets: tuple[int, int | None]
    off_because: str
    pack: str
    cases: tuple[tuple[str, str], ...]


def entries() -> tuple[Entry, ...]:
    """Every rule, sorted by name. Raises RuleError for a rule or pack that can't be loaded."""
    return tuple(_entry(compiled) for compiled in registry.rules().values())


def entry(name: str) -> Entry:
    """The rule of that name. Raises BadInput, with the closest name, where there is none."""
    registry.check_names([name])
    return _entry(registry.rules()[name])


def overview(found: tuple[Entry, ...]) -> Page:
    """Every rule with what it gives, by kind."""
    page: Page = ()
    for kind in dict.fromkeys((*KINDS, *(each.kind for each in found))):
        rows = [(each.name, each.exactness, each.summary) for each in found if each.kind == kind]
        page += tuple(section(KINDS.get(kind, kind), table(("rule", "exactness", "gives"), rows)))
    return (
        *page,
        Line(f"{plural(len(found), 'rule')}; `onnxopt rules NAME` explains one.", "quiet"),
    )


def page(found: Entry) -> Page:
    """One rule: what it gives, before and after, how exactly, where it was tested."""
    first, last = found.opsets
    until = f"{first} and later" if last is None else f"{first} to {last}"
    facts = [
        ("before", found.before),
        ("after", found.after),
        ("exactness", f"{found.exactness}: {EXACTNESS[found.exactness]}"),
        ("opsets", until),
        ("from", found.pack),
    ]
    if found.off_because:
        facts.append(("off", f"{found.off_because}; --enable {found.name} turns it on"))
    paragraphs = [" ".join(part.split()) for part in found.details.split("\n\n")]
    details = [Line(paragraph) for paragraph in paragraphs if paragraph]
    return (
        *section(found.name, [Line(found.summary), *details, *table(("", ""), facts)]),
        *section("Tested situations", table(("situation", "verdict"), found.cases)),
        Line(f"Leave it out with --disable {found.name}.", "quiet"),
    )


def document(found: tuple[Entry, ...]) -> str:
    """The catalogue as Markdown, the same bytes for the same rules."""
    lines = [
        "# Rules",
        "",
        "Written by `make catalogue` from the rules themselves: change a rule, not this file.",
    ]
    for kind in dict.fromkeys((*KINDS, *(each.kind for each in found))):
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            lines += ["", f"## {KINDS.get(kind, kind)}"]
        for each in of_kind:
            lines += ["", *_chapter(each)]
    return "\n".join(lines) + "\n"


def _chapter(found: Entry) -> list[str]:
    details = [line for part in (found.details,) if part for line in ("", *part.splitlines())]
    tested = ", ".join(
        f"{sum(v.startswith(verdict) for _, v in found.cases)} {verdict}"
        for verdict in ("becomes", "stays", "refuses")
        if any(v.startswith(verdict) for _, v in found.cases)
    )
    return [
        f"### {found.name}",
        "",
        found.summary,
        *details,
        "",
        "```",
        found.before,
        f"→ {found.after}",
        "```",
        "",
        f"*{found.exactness}*, opset {found.opsets[0]} on; tested: {tested or 'not yet'}.",
        *((f"\nOff without `--enable`: {found.off_because}.",) if found.off_because else ()),
    ]


def _entry(compiled: CompiledRule) -> Entry:
    rule = compiled.rule
    text = inspect.cleandoc(type(rule).__doc__ or "").strip()
    summary, _, details = text.partition("\n")
    return Entry(
        name=compiled.name,
        kind=rule.kind,
        summary=summary,
        details=details.strip(),
        exactness=rule.exactness.name.lower(),
        before=rule.example.before,
        after=rule.example.after,
        opsets=rule.opsets,
        off_because=rule.off_because,
        pack=type(rule).__module__.partition(".")[0],
        cases=_cases(compiled.name),
    )


def _cases(name: str) -> tuple[tuple[str, str], ...]:
    path = CASES / f"{name}.txt"
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    titles = [line.removeprefix("==").strip() for line in lines if line.startswith("==")]
    return tuple(zip(titles[0::2], titles[1::2], strict=False))


def main(arguments: list[str]) -> int:
    """Write the catalogue, or with --check compare it; the exit code says whether all is well."""
    paths = [Path(argument) for argument in arguments if argument != "--check"]
    if len(paths) != 1:
        sys.stderr.write("usage: python -m onnxopt.catalogue [--check] rules/README.md\n")
        return 2
    try:
        text = document(tuple(each for each in entries() if each.pack == registry.BUILTIN))
    except OnnxoptError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    path = paths[0]
    if "--check" not in arguments:
        path.write_text(text, encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{path} is out of date: run `make catalogue`\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
