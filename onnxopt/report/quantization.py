"""The record of a quantization, and what it says on a page: the decision, the nodes, the losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.report.page import Block, Line, Page, bytes_text, listing, plural, section, table
from onnxopt.report.pages import timing_blocks
from onnxopt.report.record import Versions, to_json

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxopt.bench.timing import Timing
    from onnxopt.check.metric import Score
    from onnxopt.quantize.proof import NodeProof
    from onnxopt.quantize.records import Choice
    from onnxopt.quantize.search import Island
    from onnxopt.quantize.static import Outcome
    from onnxopt.report.record import Report

FEW = 10
_BAR = 24


@dataclass(frozen=True, slots=True)
class Layer:
    """A node: its integer kernel or "float", why, and the range, grid and SQNR of what it writes.

    `sqnr_db` holds all errors before the node too; None where nothing was measured.
    """

    node: str
    op_type: str
    kernel: str
    reason: str
    fix: str = ""
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    bits: str = ""
    sqnr_db: float | None = None


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What `quantize` did to one model and what it decided.

    `verdict` is "int8", "float" (integers do not pay, or nothing can run in them), "over budget"
    or "planned". `islands` tell what integer nodes cost by themselves, worst first, where that was
    looked for, and `back` the nodes that went back to float for it. `float_bytes` and `bytes` are
    sizes of the float model and the best quantized one.
    """

    source: str
    output: str
    target: str
    verdict: str
    reason: str
    score: Score | None
    max_drop: float | None
    sqnr_db: float | None
    layers: tuple[Layer, ...]
    islands: tuple[Island, ...]
    back: tuple[str, ...]
    borders: Mapping[str, int]
    timing: Timing | None
    float_bytes: int
    bytes: int | None
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    strict: bool = False
    optimization: Report | None = None

    @property
    def not_integer(self) -> tuple[Layer, ...]:
        """The nodes that were meant to run in integers and do not."""
        return tuple(layer for layer in self.layers if layer.kernel == "float" and layer.fix)

    @property
    def passed(self) -> bool:
        """False where the budget was missed, or a node stayed float against `strict`."""
        return self.verdict != "over budget" and not (self.strict and self.not_integer)

    def to_json(self) -> str:
        """The whole record as one JSON document."""
        return to_json(self)


def layers_of(outcome: Outcome, model: ir.Model) -> tuple[Layer, ...]:
    """A layer for each node of the plan, in the model's order."""
    proofs = {} if outcome.proof is None else {proof.name: proof for proof in outcome.proof.nodes}
    written = {node.name: [value.name or "" for value in node.outputs] for node in model.graph}
    noise = outcome.layers or {}
    found = []
    for choice in outcome.plan.nodes:
        name = next(iter(written.get(choice.node, [])), "")
        known, grid = outcome.ranges.get(name), outcome.plan.grids.get(name)
        proof = proofs.get(choice.node)
        if proof is not None and not (choice.quantize or proof.integer):
            proof = None
        kernel = "int8" if choice.quantize else "float"
        found.append(
            Layer(
                node=choice.node,
                op_type=choice.op_type,
                kernel=kernel if proof is None else proof.kernel,
                reason=_reason(choice, proof),
                fix="" if proof is None or proof.integer else proof.fix,
                low=None if known is None else known.low,
                high=None if known is None else known.high,
                scale=None if grid is None else grid.scale,
                zero_point=None if grid is None else grid.zero_point,
                bits="" if grid is None else grid.dtype,
                sqnr_db=noise.get(name),
            )
        )
    return tuple(found)


def _reason(choice: Choice, proof: NodeProof | None) -> str:
    if proof is None:
        return choice.reason
    if not proof.integer:
        return proof.reason
    if choice.quantize:
        return choice.reason
    if choice.op_type in ("Conv", "Gemm", "MatMul"):
        return "onnxruntime quantizes its weight by itself, as pairs stand on both sides"
    return "its neighbour's kernel does its work too"


def quantization_page(report: QuantizationReport, *, verbose: bool = False) -> Page:
    """The decision, what runs in integers and why the rest does not, losses, time."""
    title = f"{report.source} → {report.output}"
    blocks = [
        *section(title, _decision(report)),
        *section("What runs in integers", _kernels(report)),
        *section("What stays float, and why", _floats(report, verbose)),
        *section("Layers, the worst first", _layers(report, verbose)),
        *section("What costs accuracy by itself", _islands(report.islands, verbose)),
        *section("Good to know", [Line(note) for note in report.notes]),
    ]
    if report.timing is not None:
        blocks += section("Speed", timing_blocks(report.timing))
    return (*blocks, *section("In short", [_in_short(report)]))


def _decision(report: QuantizationReport) -> list[Block]:
    blocks: list[Block] = []
    score = report.score
    if score is not None:
        blocks += table(
            ("metric", ">float", ">int8", ">drop", ">allowed", ">samples", ">SQNR dB"),
            [
                (
                    score.metric,
                    f"{score.reference:.4g}",
                    f"{score.candidate:.4g}",
                    f"{score.drop:.4g}",
                    f"{report.max_drop:.4g}",
                    score.samples,
                    _decibels(report.sqnr_db),
                )
            ],
        )
    if report.bytes is not None:
        sizes = f"{bytes_text(report.float_bytes)} as float, {bytes_text(report.bytes)} quantized"
        blocks.append(Line(f"Size: {sizes}."))
    if report.back:
        blocks.append(Line(f"Put back to float for accuracy: {listing(report.back, most=8)}."))
    return blocks or [Line("Nothing was quantized.")]


def _kernels(report: QuantizationReport) -> list[Block]:
    found = Counter(layer.kernel for layer in report.layers if layer.kernel != "float")
    blocks = table(("kernel", ">nodes"), found.most_common())
    if report.borders:
        words = ", ".join(f"{count} {name}" for name, count in sorted(report.borders.items()))
        blocks.append(
            Line(f"Borders between float and integers that really run: {words}.", "quiet")
        )
    return blocks


def _floats(report: QuantizationReport, verbose: bool) -> list[Block]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for layer in report.layers:
        if layer.kernel == "float":
            groups.setdefault((layer.op_type, layer.reason, layer.fix), []).append(layer.node)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    rows = [
        (op_type, len(names), f"{reason}; {fix}" if fix else reason, listing(names, most=2))
        for (op_type, reason, fix), names in (ranked if verbose else ranked[:FEW])
    ]
    return table(("op", ">nodes", "why", "such as"), rows)


def _layers(report: QuantizationReport, verbose: bool) -> list[Block]:
    known = [layer for layer in report.layers if layer.sqnr_db is not None]
    known.sort(key=lambda layer: layer.sqnr_db or 0.0)
    rows = [
        (
            layer.node,
            layer.op_type,
            layer.kernel,
            _number(layer.low),
            _number(layer.high),
            layer.bits,
            _number(layer.scale),
            _decibels(layer.sqnr_db),
        )
        for layer in (known if verbose else known[:FEW])
    ]
    columns = ("node", "op", "runs as", ">low", ">high", "codes", ">scale", ">SQNR dB")
    return table(columns, rows)


def _islands(islands: Sequence[Island], verbose: bool) -> list[Block]:
    """Each island with a bar as long as its share of the worst one's noise, in dB."""
    if not islands:
        return []
    finite = [island.sqnr_db for island in islands if abs(island.sqnr_db) < 1e3]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    rows = []
    for island in islands if verbose else islands[:FEW]:
        share = (high - min(max(island.sqnr_db, low), high)) / ((high - low) or 1.0)
        bar = "#" * max(1, round(share * _BAR))
        rows.append((listing(island.nodes, most=2), _decibels(island.sqnr_db), bar))
    return table(("nodes", ">SQNR dB alone", "noise"), rows)


def _in_short(report: QuantizationReport) -> Line:
    if report.verdict == "over budget":
        return Line(f"The budget is missed: {report.reason}.", "bad")
    if report.strict and report.not_integer:
        names = listing([layer.node for layer in report.not_integer])
        return Line(f"These nodes stayed float against --strict: {names}.", "bad")
    if report.verdict == "planned":
        chosen = sum(layer.kernel != "float" for layer in report.layers)
        return Line(f"Planned: {plural(chosen, 'node')} in integers.")
    kept = "Quantized" if report.verdict == "int8" else "The float model is kept"
    return Line(f"{kept}: {report.reason}.", "good" if report.verdict == "int8" else "plain")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
