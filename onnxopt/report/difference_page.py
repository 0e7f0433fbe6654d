"""What a difference says on a page."""

from __future__ import annotations

from collections.abc import Iterator

from onnxopt.report.difference import Change, Difference
from onnxopt.report.page import Block, Line, Page, Table, Tone, section, table

FEW = 30
SIGNS = {"only in A": "-", "only in B": "+", "changed": "~"}
TONES: dict[str, Tone] = {"only in A": "bad", "only in B": "good", "changed": "plain"}
KINDS = ("model", "function", "input", "output", "node", "weight")


def difference_page(found: Difference, *, verbose: bool = False) -> Page:
    """Counts by kind and by operator, then the changes one by one."""
    title = f"{found.a} → {found.b}"
    if not found.changes:
        return tuple(section(title, [Line("No difference.", "good")]))
    shown = found.changes if verbose else found.changes[:FEW]
    lines = [line for change in shown for line in _lines(change)]
    if len(found.changes) > len(shown):
        more = len(found.changes) - len(shown)
        lines.append(Line(f"and {more:,} more; --verbose shows all", "quiet"))
    return (
        *section(title, _counts(found)),
        *section("Operators", _operators(found)),
        *section("Changes (- only in A, + only in B, ~ changed)", lines),
    )


def _side(change: Change) -> str:
    return (
        "changed" if change.before and change.after else f"only in {'A' if change.before else 'B'}"
    )


def _counts(found: Difference) -> list[Block]:
    same = {"node": f"{found.same_nodes:,}", "weight": f"{found.same_weights:,}"}
    rows = []
    for kind in KINDS:
        sides = [_side(change) for change in found.changes if change.kind == kind]
        if sides or kind in same:
            rows.append((kind, *(f"{sides.count(side):,}" for side in SIGNS), same.get(kind, "")))
    return table(("", *(f">{side}" for side in SIGNS), ">same"), rows)


def _operators(found: Difference) -> list[Block]:
    names = sorted({*found.ops_a, *found.ops_b})
    counts = [(name, found.ops_a.get(name, 0), found.ops_b.get(name, 0)) for name in names]
    rows = [(name, a, b, f"{b - a:+,}") for name, a, b in counts if a != b]
    return table(("operator", ">A", ">B", ">change"), rows)


def _lines(change: Change) -> Iterator[Line | Table]:
    side = _side(change)
    head = f"{SIGNS[side]} {change.kind} {change.name}"
    texts = [text for text in (change.before, change.after) if text]
    yield Line(f"{head}: {' → '.join(texts)}", TONES[side])
    if change.rule:
        source = f" from {change.source}" if change.source else ""
        yield Line(f"    by {change.rule}{source}", "quiet")
