"""What `onnxopt lint` found in a quantized model, as a record and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from onnxopt.quantize.lint import KINDS, Fault
from onnxopt.quantize.proof import NodeProof, Proof
from onnxopt.report.page import Block, Line, Page, listing, plural, section, table

MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Linting:
    """The faults of a model, and what onnxruntime makes of it.

    `faults` are those of the file that was read; `fixed` and `left` are set where a repaired copy
    was made, `output` where that was written. `proof` and `proof_after` are None where onnxruntime
    can't load the model, as `note` says then.
    """

    source: str
    faults: tuple[Fault, ...]
    proof: Proof | None
    fixed: tuple[Fault, ...] = ()
    left: tuple[Fault, ...] = ()
    proof_after: Proof | None = None
    output: str = ""
    note: str = ""

    @property
    def open(self) -> tuple[Fault, ...]:
        """The faults that remain in what the user has now."""
        return self.left if self.output else self.faults


def linting_page(found: Linting) -> Page:
    """The faults by kind, what was repaired, and what runs in integers."""
    return (
        *section(found.source, _faults(found.faults)),
        *section(f"Repaired in {found.output}" if found.output else "Repaired", _repaired(found)),
        *section("What runs in integers", _kernels(found)),
        *section("What stays float, and why", _reasons(found.proof_after or found.proof)),
        *section("Note", [Line(found.note)] if found.note else []),
    )


def _faults(faults: tuple[Fault, ...]) -> list[Block]:
    if not faults:
        return [Line("No faults.", "good")]
    rows = []
    for kind in KINDS:
        of_kind = [fault for fault in faults if fault.kind == kind]
        for message, group in _grouped(of_kind):
            nodes = listing([fault.node for fault in group], most=MOST_SHOWN)
            repair = "yes" if all(fault.fix_possible for fault in group) else "needs data"
            rows.append((f"{len(group):,}", kind, nodes, message, repair))
    return table((">found", "kind", "where", "what", "--fix repairs it"), rows)


def _grouped(faults: Iterable[Fault]) -> list[tuple[str, list[Fault]]]:
    """Faults under the message of the first one; numbers and names in messages differ."""
    groups: dict[tuple[str, bool], list[Fault]] = {}
    for fault in faults:
        start = " ".join(fault.message.split()[:2])
        key = "" if fault.kind in ("saturation-risk", "wrong-bias-scale") else start
        groups.setdefault((key, fault.fix_possible), []).append(fault)
    return [(group[0].message, group) for group in groups.values()]


def _repaired(found: Linting) -> list[Block]:
    if not found.fixed and not found.left:
        return []
    rows = [(kind, f"{count:,}") for kind, count in Counter(f.kind for f in found.fixed).items()]
    blocks = table(("kind", ">repaired"), rows)
    if found.left:
        blocks.append(Line(f"{plural(len(found.left), 'fault')} left.", "bad"))
    return blocks


def _kernels(found: Linting) -> list[Block]:
    if found.proof is None and found.proof_after is None:
        return []
    before = found.proof.kernels if found.proof is not None else {}
    after = found.proof_after.kernels if found.proof_after is not None else None
    names = sorted({*before, *(after or {})})
    if after is None:
        return table(("kernel", ">nodes"), [(name, before[name]) for name in names])
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in names]
    return table(("kernel", ">before", ">after"), rows)


def _reasons(proof: Proof | None) -> list[Block]:
    groups: dict[tuple[str, str, str], list[NodeProof]] = {}
    for node in () if proof is None else proof.stayed_float:
        groups.setdefault((node.op_type, node.rule, node.fix), []).append(node)
    rows = [
        (f"{len(group):,}", op_type, rule, group[0].reason, fix)
        for (op_type, rule, fix), group in groups.items()
    ]
    return table((">nodes", "operator", "rule", "because", "what would change it"), rows)
