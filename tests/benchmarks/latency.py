"""How fast the result runs: every model before and after, timed by onnxopt's own bench."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.bench.timing import Timing, bench
from onnxopt.errors import RuntimeFailed
from onnxopt.report.record import plain
from tests.benchmarks.judge import count_loaded_nodes
from tests.benchmarks.process import run
from tests.benchmarks.tables import Section, geometric_mean
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.zoo import Model, feed

_NUMBERS = ("nodes before", "after", "ms before", "after", "speedup", "95% interval", "noise floor")
COLUMNS = ("model", *(f">{name}" for name in _NUMBERS), "verdict")


@dataclass(frozen=True, slots=True)
class Found:
    """A timing, and the nodes that onnxruntime runs after its own optimizations."""

    timing: Timing
    nodes_before: int
    nodes_after: int


def section(
    models: Sequence[Model], command: str | None = None, *, seconds: float = 20.0, threads: int = 0
) -> Section:
    """Optimize each model and time it against what it was, on the CPU provider."""
    found = {model.name: _measure(model, command, seconds, threads) for model in models}
    timed = {name: each.timing for name, each in found.items() if isinstance(each, Found)}
    verdicts = Counter(timing.comparisons[0].verdict for timing in timed.values())
    speedups = [timing.comparisons[0].speedup.median for timing in timed.values()]
    return Section(
        "Speed of the result",
        "Median time of a call on onnxruntime's CPU provider as a user runs it, and the speedup "
        "with its 95% interval. The verdict asks that the interval stands clear of 1 by more than "
        "the noise floor, which is how far the original differs from itself. The nodes are those "
        "that onnxruntime runs, after all it fuses when it loads the model.",
        COLUMNS,
        [_cells(name, each) for name, each in found.items()],
        {
            **{verdict: f"{verdicts[verdict]}" for verdict in sorted(verdicts)},
            "speedup, geometric mean": f"{geometric_mean(speedups):.3f}",
        },
        {name: plain(each) for name, each in found.items()},
        [f"{name}: {note}" for name, timing in timed.items() for note in timing.notes],
    )


def _measure(model: Model, command: str | None, seconds: float, threads: int) -> Found | str:
    tool = onnxopt(command, freeze_inputs=model.overridable)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        ran = run(tool.command(model.path, target))
        if ran.failed:
            return f"optimize failed: {ran.said}"
        try:
            timing = bench(
                [model.path, target], feeds=[feed(model)], seconds=seconds, threads=threads
            )
        except RuntimeFailed as error:
            return error.message
        found = Found(timing, count_loaded_nodes(model.path), count_loaded_nodes(target))
    print(*_cells(model.name, found), sep="  ")
    return found


def _cells(name: str, found: Found | str) -> list[str]:
    if isinstance(found, str):
        return [name, *[""] * (len(COLUMNS) - 2), found]
    before, after = found.timing.sides
    comparison = found.timing.comparisons[0]
    return [
        name,
        f"{found.nodes_before}",
        f"{found.nodes_after}",
        f"{before.median.median:.3f}",
        f"{after.median.median:.3f}",
        f"{comparison.speedup.median:.2f}x",
        f"{comparison.speedup.low:.2f} to {comparison.speedup.high:.2f}",
        f"{100 * (found.timing.noise_floor - 1):.1f}%",
        comparison.verdict,
    ]
