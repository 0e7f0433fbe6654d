"""What a report, a parity check and a timing say on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxopt.report.page import (
    Bar,
    Block,
    Line,
    Page,
    Summary,
    Tone,
    bars,
    bytes_text,
    change_text,
    count_text,
    listing,
    plural,
    section,
    table,
)
from onnxopt.report.record import RefusalGroup, Report, Versions
from onnxopt.report.stages import stage_figures, stage_of

if TYPE_CHECKING:
    from onnxopt.bench.cost import Cost
    from onnxopt.bench.timing import Comparison, Timing
    from onnxopt.check.parity import Parity

FEW = 8
IN_MEMORY = "<memory>"
SPEED: dict[str, tuple[str, Tone]] = {
    "faster": ("faster", "good"),
    "slower": ("slower", "bad"),
    "no measurable change": ("no measurable change", "plain"),
}


def report_page(report: Report, *, verbose: bool = False) -> Page:
    """The whole of an optimization: sizes, what fired, what did not and why, proof and timing."""
    title = f"{report.source} → {report.output}"
    blocks = section(title, _sizes(report.before, report.after))
    blocks += optimization_blocks(report, verbose=verbose)
    if report.timing is not None:
        blocks += section("Speed", timing_blocks(report.timing, pictures=verbose))
    blocks += section("Run", [Line(circumstances(report.versions, report.seconds), "quiet")])
    return (*blocks, _in_short(report))


def optimization_blocks(report: Report, *, verbose: bool = True) -> list[Block]:
    """What fired, what was undone, what did not apply and why, and the proof."""
    blocks = section("What fired", _fired(report, verbose))
    if verbose:
        blocks += section("Operators", _operators(report.before, report.after))
    blocks += [
        *section("Undone", _undone(report)),
        *section("What did not apply, and why", _refusals(report.refusals, verbose)),
        *section("Good to know", [Line(note) for note in report.notes]),
    ]
    if report.parity is not None:
        blocks += section("Proof", parity_blocks(report.parity, verbose=verbose))
    return blocks


def _in_short(report: Report) -> Summary:
    """One line that says it all, and the figures."""
    if not report.passed:
        return Summary("The result does not agree with the model: nothing was written.", "bad")
    before, after = report.before, report.after
    nodes = f"{before.nodes:,} → {after.nodes:,} nodes"
    words = [nodes, f"{bytes_text(before.bytes)} → {bytes_text(after.bytes)}"]
    words.append("not proven" if report.parity is None else "outputs agree")
    if report.timing is None:
        words.append("not timed")
    else:
        words += [
            _speed(comparison, report.timing.noise_floor)[0]
            for comparison in report.timing.comparisons
        ]
    if report.undone:
        words.append(f"{plural(len(report.undone), 'step')} undone")
    if report.output == IN_MEMORY:
        words.append("not saved")
    stages = (
        stage_of("original", before, timing=report.timing, side="original"),
        stage_of("optimized", after, timing=report.timing, side="optimized"),
    )
    tone: Tone = "plain" if report.parity is None else "good"
    return Summary(", ".join(words), tone, stage_figures(stages))


def _operators(before: Cost, after: Cost) -> list[Block]:
    """How often each operator stands in both models, where that changed the most first."""
    names = {*before.ops, *after.ops}
    counts = [(name, before.ops.get(name, 0), after.ops.get(name, 0)) for name in names]
    counts.sort(key=lambda each: (-abs(each[1] - each[2]), -each[1], each[0]))
    return bars(
        ("operator", "before → after"),
        [Bar(name, new, f"{old:,} → {new:,}", was=old) for name, old, new in counts],
    )


def _speed(comparison: Comparison, noise_floor: float) -> tuple[str, Tone]:
    words, tone = SPEED[comparison.verdict]
    ratio = comparison.speedup
    if comparison.verdict == "no measurable change":
        clear = ratio.low > noise_floor or ratio.high < 1 / noise_floor
        if not clear:
            return words, tone
        words = "faster" if ratio.median > 1 else "slower"
        return f"{words} by about {_factor(ratio.median)}, in few rounds", tone
    return f"{words} by {_factor(ratio.median)}", tone


def _factor(ratio: float) -> str:
    return f"{ratio if ratio > 1 else 1 / ratio:.2f}x"


def parity_page(parity: Parity) -> Page:
    """A comparison of two models on the same inputs."""
    return tuple(parity_blocks(parity, verbose=True))


def timing_page(timing: Timing) -> Page:
    """A timing of one model or of several against the first."""
    return tuple(timing_blocks(timing))


def parity_blocks(parity: Parity, *, verbose: bool) -> list[Block]:
    """The verdict; the numbers of each output where asked for or where there is a word on it."""
    blocks: list[Block] = [_verdict(parity)]
    if not parity.deterministic:
        blocks.append(Line("The reference itself gives other numbers when it runs again."))
    if parity.skipped:
        sizes = plural(parity.skipped, "made-up size")
        blocks.append(Line(f"The reference does not run at {sizes}; they were left out.", "quiet"))
    shown = [output for output in parity.outputs if verbose or output.reason]
    columns = ("output", "type", ">max abs", ">of tolerance", ">cosine", ">SQNR dB", "")
    rows = [
        (
            output.name,
            output.dtype,
            _number(output.max_abs),
            _number(output.worst),
            _number(output.cosine, 6),
            _number(output.sqnr_db, 4),
            output.reason,
        )
        for output in shown
    ]
    return [*blocks, *table(columns, rows), *map(Line, parity.notes)]


def _verdict(parity: Parity) -> Line:
    if parity.failure:
        return Line(f"{parity.failure[:1].upper()}{parity.failure[1:]}.", "bad")
    failed = [output.name for output in parity.outputs if not output.passed]
    if failed:
        return Line(f"These outputs differ: {listing(failed)}.", "bad")
    worst = max((output.worst for output in parity.outputs), default=0.0)
    used = "to the bit" if not worst else f"using {100 * worst:.2g} % of the tolerance at most"
    kind = "exactly" if parity.exactness.name == "EXACT" else "up to rounding"
    return Line(f"The outputs agree {kind} in {plural(parity.runs, 'run')}, {used}.", "good")


def timing_blocks(timing: Timing, *, pictures: bool = False) -> list[Block]:
    """The verdict of each side against the first, and what it rests on."""
    blocks: list[Block] = []
    for comparison in timing.comparisons:
        words, tone = _speed(comparison, timing.noise_floor)
        ratio = comparison.speedup
        between = f"95% interval {ratio.low:.2f}x to {ratio.high:.2f}x"
        blocks.append(Line(f"{comparison.name}: {words} ({between})", tone))
    if pictures:
        blocks += bars(
            ("model", "median ms"),
            [Bar(s.name, s.median.median, _number(s.median.median)) for s in timing.sides],
        )
    with_memory = any(side.peak_bytes is not None for side in timing.sides)
    columns = ["model", ">median ms", ">95% interval", ">p95 ms", ">load ms", ">file"]
    rows = [
        [
            side.name,
            _number(side.median.median),
            f"{_number(side.median.low)} to {_number(side.median.high)}",
            _number(side.p95_ms),
            _number(side.create_ms),
            bytes_text(side.file_bytes),
            "" if side.peak_bytes is None else bytes_text(side.peak_bytes),
        ][: None if with_memory else -1]
        for side in timing.sides
    ]
    blocks += table([*columns, ">memory"] if with_memory else columns, rows)
    floor = 100 * (timing.noise_floor - 1)
    base = f"Noise floor {floor:.1f} % (the first model against itself); {_threads(timing.threads)}"
    blocks.append(
        Line(f"{base}, {plural(timing.rounds, 'round')}, {timing.seconds:.1f} s.", "quiet")
    )
    return blocks + [Line(note) for note in timing.notes]


def _threads(threads: int) -> str:
    return plural(threads, "thread") if threads else "threads as onnxruntime chooses"


def _sizes(before: Cost, after: Cost) -> list[Block]:
    rows = [
        ("nodes", f"{before.nodes:,}", f"{after.nodes:,}", change_text(before.nodes, after.nodes)),
        _row("size", before.bytes, after.bytes, bytes_text),
        _row("parameters", before.parameters, after.parameters, count_text),
    ]
    if before.macs is not None and after.macs is not None:
        rows.append(_row(f"MACs{_at(before)}", before.macs, after.macs, count_text))
    return table(("", ">before", ">after", ">change"), rows)


def _row(name: str, before: float, after: float, text: object) -> tuple[str, str, str, str]:
    assert callable(text)
    return name, text(before), text(after), change_text(before, after)


def _at(cost: Cost) -> str:
    """The sizes of dynamic dims that MACs were counted at."""
    return f" ({listing([f'{k}={v}' for k, v in cost.macs_at.items()])})" if cost.macs_at else ""


def _fired(report: Report, verbose: bool) -> list[Block]:
    fired = report.fired
    if not fired:
        return [Line("Nothing: the model is as it was.")]
    shown = fired if verbose else fired[: 2 * FEW]
    rows = [(each.step, each.what, f"{each.times:,}") for each in shown]
    blocks = table(("step", "what", ">times"), rows)
    if len(fired) > len(shown):
        blocks.append(Line(f"and {len(fired) - len(shown)} more; --verbose shows all", "quiet"))
    return blocks


def _undone(report: Report) -> list[Block]:
    return [Line(f"{step.name} was taken back: {step.reason}", "bad") for step in report.undone]


def _refusals(groups: Sequence[RefusalGroup], verbose: bool) -> list[Block]:
    shown = groups if verbose else groups[:FEW]
    most = 10 if verbose else 1
    blocks = table(
        ("rule or step", ">times", "reason", "at"),
        [(g.subject, len(g.nodes), g.reason, listing(g.nodes, most=most)) for g in shown],
    )
    if len(groups) > len(shown):
        left = plural(len(groups) - len(shown), "more reason")
        blocks.append(Line(f"and {left}; --verbose shows all", "quiet"))
    return blocks


def circumstances(versions: Versions, seconds: float) -> str:
    """What ran where, and how long it took."""
    v = versions
    packages = f"onnxopt {v.onnxopt}, onnx {v.onnx}, onnxruntime {v.onnxruntime}, numpy {v.numpy}"
    return f"{packages}, Python {v.python}, {v.provider}, {v.cpu}; {seconds:.1f} s"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
