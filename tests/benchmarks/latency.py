"""How fast the result runs: every model before and after, timed by onnxopt's own bench."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onnxopt.bench.timing import Timing, bench
from onnxopt.errors import RuntimeFailed
from onnxopt.report.record import plain
from tests.benchmarks.process import run
from tests.benchmarks.tables import Section, geometric_mean
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.zoo import Model, feed


def section(
    models: Sequence[Model], command: str | None = None, *, seconds: float = 20.0, threads: int = 0
) -> Section:
    """Optimize each model and time it against what it was, on the CPU provider."""
    found = {model.name: _measure(model, command, seconds, threads) for model in models}
    timed = {name: timing for name, timing in found.items() if isinstance(timing, Timing)}
    verdicts = Counter(timing.comparisons[0].verdict for timing in timed.values())
    speedups = [timing.comparisons[0].speedup.median for timing in timed.values()]
    return Section(
        "Speed of the result",
        "Median time of a call on onnxruntime's CPU provider as a user runs it, and the speedup "
        "with its 95% interval. The verdict asks that the interval stands clear of 1 by more than "
        "the noise floor, which is how far the original differs from itself.",
        (
            "model",
            ">before ms",
            ">after ms",
            ">speedup",
            ">95% interval",
            ">noise floor",
            "verdict",
        ),
        [_cells(name, timing) for name, timing in found.items()],
        {
            **{verdict: f"{verdicts[verdict]}" for verdict in sorted(verdicts)},
            "speedup, geometric mean": f"{geometric_mean(speedups):.3f}",
        },
        {name: plain(timing) for name, timing in found.items()},
        [f"{name}: {note}" for name, timing in timed.items() for note in timing.notes],
    )


def _measure(model: Model, command: str | None, seconds: float, threads: int) -> Timing | str:
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
    print(model.name, *_cells(model.name, timing)[1:], sep="  ")
    return timing


def _cells(name: str, timing: Timing | str) -> list[str]:
    if isinstance(timing, str):
        return [name, "", "", "", "", "", timing]
    before, after = timing.sides
    found = timing.comparisons[0]
    return [
        name,
        f"{before.median.median:.3f}",
        f"{after.median.median:.3f}",
        f"{found.speedup.median:.2f}x",
        f"{found.speedup.low:.2f} to {found.speedup.high:.2f}",
        f"{100 * (timing.noise_floor - 1):.1f}%",
        found.verdict,
    ]
