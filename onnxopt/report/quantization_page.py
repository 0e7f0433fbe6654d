"""What a quantization says on a page: the decision, time, what costs accuracy, every node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxopt.report.page import (
    Bar,
    Block,
    Curve,
    Figure,
    Line,
    Page,
    Series,
    Summary,
    Tone,
    bars,
    bytes_text,
    change_text,
    listing,
    plural,
    section,
    table,
)
from onnxopt.report.pages import circumstances, optimization_blocks, timing_blocks
from onnxopt.report.quantization import Layer, QuantizationReport
from onnxopt.report.stages import score_text, stage_blocks

if TYPE_CHECKING:
    from onnxopt.check.metric import Score
    from onnxopt.quantize.search import Island
    from onnxopt.quantize.trials import Trial

FEW = 10
MOST_BARS = 40
_HEADINGS = {
    "weights": "What has small weights",
    "fp16": "What runs in half precision",
    "bf16": "What runs in half precision",
}


def quantization_page(report: QuantizationReport, *, verbose: bool = False) -> Page:
    """The decision, time, what costs accuracy, every node and why it runs as it does."""
    title = f"{report.source} → {report.output}"
    blocks = section(title, _decision(report))
    if report.timing is not None:
        blocks += section("Speed", timing_blocks(report.timing, pictures=verbose))
    blocks += [
        *section("What costs accuracy", _sensitivity(report, verbose)),
        *section("Layers, the worst first", _layers(report, verbose)),
        *section(_HEADINGS.get(report.mode, "What runs in integers"), _kernels(report)),
        *section("What stays float, and why", _floats(report, verbose)),
    ]
    if report.optimization is not None and verbose:
        blocks += optimization_blocks(report.optimization)
    blocks += section("Good to know", [Line(note) for note in report.notes])
    run = Line(circumstances(report.versions, report.seconds), "quiet")
    return (*blocks, *section("Run", [run]), _in_short(report))


def _decision(report: QuantizationReport) -> list[Block]:
    blocks = _score(report) + stage_blocks(
        report.stages, "" if report.score is None else report.score.metric
    )
    if report.back:
        blocks.append(Line(f"Put back to float for accuracy: {listing(report.back, most=8)}."))
    return blocks or [Line("Nothing was quantized.")]


def _score(report: QuantizationReport) -> list[Block]:
    score = report.score
    if score is None:
        return []
    columns = ("metric", ">float", ">quantized", ">drop", ">allowed", ">samples", ">SQNR dB")
    rows = [_score_row(score.metric, score, report, _decibels(report.sqnr_db))]
    if report.unseen is not None:
        name = f"{score.metric}, on samples that decided nothing"
        rows.append(_score_row(name, report.unseen, report, ""))
    return table(columns, rows)


def _score_row(
    name: str, score: Score, report: QuantizationReport, decibels: str
) -> tuple[str | int, ...]:
    return (
        name,
        f"{score.reference:.4g}",
        f"{score.candidate:.4g}",
        f"{score.drop:.4g}",
        _number(report.max_drop),
        score.samples,
        decibels,
    )


def _trials(trials: Sequence[Trial]) -> list[Block]:
    """What each weight method did to the outputs, and whether it was taken back."""
    rows = [
        (each.method, _decibels(each.before_db), _decibels(each.after_db), each.outcome)
        for each in trials
    ]
    return table(("weight method", ">SQNR dB before", ">after", "outcome"), rows)


def _sensitivity(report: QuantizationReport, verbose: bool) -> list[Block]:
    """SQNR along the network, and what each island costs alone; says what was not measured."""
    if report.score is None:
        return []
    found = [(place, layer) for place, layer in enumerate(report.layers) if _finite(layer)]
    blocks: list[Block] = []
    if len(found) > 1:
        points = tuple((float(place), layer.sqnr_db or 0.0) for place, layer in found)
        names = tuple(layer.node for _, layer in found)
        blocks.append(
            Curve(
                "the nodes in order",
                "SQNR dB",
                (Series("with all errors before", points, names),),
            )
        )
    blocks += _trials(report.trials)
    blocks += _islands(report.islands, verbose)
    if not report.islands:
        blocks.append(
            Line(
                "What each node costs by itself was not measured, as the budget held without it;"
                " --sensitivity does.",
                "quiet",
            )
        )
    return blocks


def _finite(layer: Layer) -> bool:
    return layer.sqnr_db is not None and math.isfinite(layer.sqnr_db)


def _islands(islands: Sequence[Island], verbose: bool) -> list[Block]:
    """Each island with a bar as long as the noise that it alone causes at the outputs."""
    shown = islands[: MOST_BARS if verbose else FEW]
    timed = any(each.saved is not None for each in shown)
    # Noise as large as the signal fills the bar; what is beyond is as bad.
    rows = [
        Bar(listing(each.nodes, most=2), min(each.error, 1.0), _island_text(each)) for each in shown
    ]
    title = "SQNR dB, ms saved" if timed else "SQNR dB"
    blocks = bars(("nodes in integers alone", title), rows)
    if len(islands) > len(shown):
        blocks.append(Line(f"and {len(islands) - len(shown)} that cost less", "quiet"))
    return blocks


def _island_text(island: Island) -> str:
    words = _decibels(island.sqnr_db)
    return words if island.saved is None else f"{words}, {1e3 * island.saved:.3f}"


def _layers(report: QuantizationReport, verbose: bool) -> list[Block]:
    ranked = sorted(report.layers, key=_rank)
    if not verbose:
        ranked = [layer for layer in ranked if layer.sqnr_db is not None][:FEW]
    timed = any(layer.milliseconds is not None for layer in ranked)
    columns = ["node", "op", "runs as", ">SQNR dB"]
    columns += [">float ms", ">now ms"] if timed else []
    columns += ["why"] if verbose else []
    columns += [">low", ">high"]
    columns += ["codes", ">scale", ">zero point", "weight"] if verbose else []
    return table(columns, (_layer_row(layer, timed, verbose) for layer in ranked))


def _rank(layer: Layer) -> tuple[bool, float]:
    known = layer.sqnr_db is not None and not math.isnan(layer.sqnr_db)
    return not known, layer.sqnr_db if known and layer.sqnr_db is not None else 0.0


def _layer_row(layer: Layer, timed: bool, verbose: bool) -> list[str]:
    row = [layer.node, layer.op_type, layer.kernel, _decibels(layer.sqnr_db)]
    if timed:
        row += [_number(layer.float_milliseconds, 3), _number(layer.milliseconds, 3)]
    if verbose:
        row.append("; ".join(filter(None, (layer.reason, layer.fix))))
    row += [_number(layer.low), _number(layer.high)]
    if verbose:
        zero_point = "" if layer.zero_point is None else str(layer.zero_point)
        row += [layer.bits, _number(layer.scale), zero_point, layer.weight]
    return row


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


def _in_short(report: QuantizationReport) -> Summary:
    text, tone = _verdict(report)
    return Summary(text, tone, tuple(_figures(report)))


def _verdict(report: QuantizationReport) -> tuple[str, Tone]:
    if not report.agrees:
        return "The optimized model does not agree with the model: nothing was written.", "bad"
    if report.verdict == "over budget":
        return f"The budget is missed: {report.reason}.", "bad"
    if report.strict and report.not_integer:
        names = listing([layer.node for layer in report.not_integer])
        return f"These nodes stayed float against --strict: {names}.", "bad"
    if report.verdict == "planned":
        chosen = sum(layer.kernel != "float" for layer in report.layers)
        return f"Planned: {plural(chosen, 'node')} in integers.", "plain"
    if not report.kept:
        return f"The float model is kept: {report.reason}.", "plain"
    how = "" if report.mode == "static" else f" ({report.mode}, {report.verdict})"
    how = how.replace(f"{report.verdict}, {report.verdict}", report.verdict)
    return f"Quantized{how}: {report.reason}.", "good"


def _figures(report: QuantizationReport) -> list[Figure]:
    """Accuracy, time and size of the best quantized model against the float one."""
    found = []
    score = report.score
    if score is not None:
        change = f"drop {score.drop:.2g}, {_number(report.max_drop, 2)} allowed"
        known = score_text(score.reference) if math.isfinite(score.reference) else ""
        found.append(Figure(score.metric, known, score_text(score.candidate), change))
        if score.metric != "sqnr" and report.sqnr_db is not None:
            found.append(Figure("SQNR of the outputs", "", f"{report.sqnr_db:.1f} dB"))
    if report.timing is not None and report.timing.comparisons:
        left, right = (side.median.median for side in report.timing.sides[:2])
        ratio = report.timing.comparisons[0].speedup.median
        found.append(
            Figure("time of a run", f"{left:.3g} ms", f"{right:.3g} ms", f"{ratio:.2f}x as fast")
        )
    if report.bytes is not None:
        before, after = report.float_bytes, report.bytes
        change = change_text(before, after)
        found.append(Figure("size", bytes_text(before), bytes_text(after), change))
    integer = sum(layer.kernel != "float" for layer in report.layers)
    if report.layers:
        found.append(Figure("nodes quantized", "", f"{integer} of {len(report.layers)}"))
    return found


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
