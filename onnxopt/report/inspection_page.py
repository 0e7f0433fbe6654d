"""What an inspection says on a page."""

from __future__ import annotations

from onnxopt.report.inspection import Blocker, Inspection, Port, shape_text
from onnxopt.report.page import (
    Block,
    Line,
    Page,
    bytes_text,
    count_text,
    listing,
    plural,
    section,
    table,
)

MOST_PORTS = 20


def inspection_page(found: Inspection) -> Page:
    """The model at a glance, its ports, operators and types, and what blocks the optimizer."""
    return (
        *section(found.source, table(("", ""), _summary(found))),
        *section("Inputs", _ports(found.inputs)),
        *section("Outputs", _ports(found.outputs)),
        *section("Dynamic dims", table(("dim", "of"), _dims(found))),
        *section("Operators", _operators(found)),
        *section("Weights", _weights(found)),
        *section("What would block the optimizer", _blockers(found.blockers)),
    )


def _summary(found: Inspection) -> list[tuple[str, str]]:
    cost = found.cost
    rows = [
        ("made by", found.producer or "unknown"),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())),
        ("IR version", str(found.ir_version)),
        ("size", _size(found)),
        ("nodes", f"{cost.nodes:,}"),
        ("parameters", count_text(cost.parameters)),
        ("MACs a run", _macs(found)),
    ]
    if found.control_flow:
        flow = ", ".join(f"{count} {name}" for name, count in found.control_flow.items())
        rows.append(("control flow", f"{flow}, nested {found.depth} deep"))
    if found.functions:
        rows.append(("local functions", listing(found.functions)))
    if found.metadata:
        rows.append(("metadata", listing(found.metadata, most=8)))
    return rows


def _size(found: Inspection) -> str:
    if found.file is None:
        return bytes_text(found.cost.bytes)
    text = bytes_text(found.file.graph_bytes + found.file.external_bytes)
    files = found.file.external_files
    if not files:
        return f"{text}, no external data"
    names = listing([str(name) for name in files])
    return f"{text}, {bytes_text(found.file.external_bytes)} of it in {names}"


def _macs(found: Inspection) -> str:
    cost = found.cost
    if cost.macs is None:
        return "not known: the shapes they depend on are not"
    text = count_text(cost.macs)
    if cost.macs_at:
        text += f" at {listing([f'{dim}={size}' for dim, size in cost.macs_at.items()], most=6)}"
    if cost.macs_missing:
        text += f", without {plural(sum(cost.macs_missing.values()), 'node')} of unknown shape"
    return text


def _ports(ports: tuple[Port, ...]) -> list[Block]:
    rows = [(port.name, port.type, shape_text(port.shape)) for port in ports[:MOST_PORTS]]
    blocks = table(("name", "type", "shape"), rows)
    if len(ports) > len(rows):
        blocks.append(Line(f"and {len(ports) - len(rows)} more", "quiet"))
    return blocks


def _dims(found: Inspection) -> list[tuple[str, str]]:
    return [(dim, listing(names, most=6)) for dim, names in found.dynamic_dims.items()]


def _operators(found: Inspection) -> list[Block]:
    cost = found.cost
    ordered = sorted(cost.ops.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (name, f"{count:,}", _share(cost.macs_by_op.get(name, 0), cost.macs))
        for name, count in ordered
    ]
    return table(("operator", ">nodes", ">of the MACs"), rows)


def _share(part: int, whole: int | None) -> str:
    return f"{100 * part / whole:.0f} %" if part and whole else ""


def _weights(found: Inspection) -> list[Block]:
    ordered = sorted(found.cost.dtypes.items(), key=lambda item: (-item[1], item[0]))
    return table(("type", ">parameters"), [(name, count_text(count)) for name, count in ordered])


def _blockers(blockers: tuple[Blocker, ...]) -> list[Block]:
    if not blockers:
        return [Line("Nothing.", "good")]
    columns = (">found", "what", "where", "so")
    rows = [(f"{b.count:,}", b.what, listing(b.where), b.effect) for b in blockers]
    return table(columns, rows)
