"""How long whole commands take: onnxopt against onnxsim and OnnxSlim on every model of the zoo."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.benchmarks.process import Ran, run
from tests.benchmarks.tables import Section, geometric_mean
from tests.benchmarks.tools import ONNXSIM, ONNXSLIM, Tool
from tests.benchmarks.zoo import LARGE_BYTES, Model

AGAIN = "onnxopt again"
COLUMNS = ("model", *(f">{name}" for name in ("MB", "onnxopt", ONNXSIM.name, ONNXSLIM.name)))
COLUMNS += (f">/ {ONNXSIM.name}", f">/ {ONNXSLIM.name}", ">/ itself")
_SLOW_SECONDS = 5.0
_SLOW_ROUNDS = 2


@dataclass(slots=True)
class Times:
    """The seconds of every run of one tool on one model, or why it failed.

    `busy` is processor time: on a machine that others use too, it says more than the clock.
    """

    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    failure: str = ""

    @property
    def median(self) -> float:
        return math.nan if self.failure else statistics.median(self.seconds)

    @property
    def busy_median(self) -> float:
        return math.nan if self.failure else statistics.median(self.busy)

    def add(self, ran: Ran) -> None:
        self.seconds.append(ran.seconds)
        self.busy.append(ran.processor_seconds)
        self.peak_bytes = max(self.peak_bytes, ran.peak_bytes)
        if ran.failed:
            self.failure = ran.said or f"exit code {ran.code}"


Row = Mapping[str, Times]


def section(models: Sequence[Model], ours: Tool, *, rounds: int = 3) -> Section:
    """Time the tools on each model in turns: a round is one run of each, in changing order."""
    tools = (ours, Tool(AGAIN, ours.command), ONNXSIM, ONNXSLIM)
    for tool in tools[1:]:  # from here on programs and libraries are in the page cache
        _run_once(tool, min(models, key=lambda model: model.bytes))
    rows = {model.name: _measure(model, tools, rounds) for model in models}
    return Section(
        "Whole commands",
        "Wall time in seconds from the shell's point of view, start of the interpreter included, "
        "without validation and timing: the median of "
        f"{rounds} rounds in which the tools take turns. The summary gives geometric means of the "
        "ratios, models left out on which one of the two failed.",
        COLUMNS,
        [_cells(model, rows[model.name]) for model in models],
        _summary(models, rows),
        {name: {tool: asdict(t) for tool, t in row.items()} for name, row in rows.items()},
        [
            f"{tool} failed on {name}: {times.failure}"
            for name, row in rows.items()
            for tool, times in row.items()
            if times.failure and tool != AGAIN
        ],
    )


def _summary(models: Sequence[Model], rows: Mapping[str, Row]) -> dict[str, str]:
    large = [rows[model.name] for model in models if model.bytes > LARGE_BYTES]
    summary: dict[str, str] = {}
    for rival in (ONNXSIM.name, ONNXSLIM.name, AGAIN):
        parts = {
            "": _mean(rows.values(), rival),
            f", models over {LARGE_BYTES / 1e6:.0f} MB": _mean(large, rival),
            ", processor time": _mean(rows.values(), rival, busy=True),
        }
        summary |= {f"onnxopt / {rival}{part}": f"{mean:.3f}" for part, mean in parts.items()}
    return summary


def ratio(row: Row, rival: str, *, busy: bool = False) -> float:
    """Our time over the rival's; NaN where one of them failed."""
    ours, theirs = row["onnxopt"], row[rival]
    return ours.busy_median / theirs.busy_median if busy else ours.median / theirs.median


def _mean(rows: Iterable[Row], rival: str, *, busy: bool = False) -> float:
    ratios = (ratio(row, rival, busy=busy) for row in rows)
    return geometric_mean(value for value in ratios if not math.isnan(value))


def _measure(model: Model, tools: Sequence[Tool], rounds: int) -> dict[str, Times]:
    row = {tool.name: Times() for tool in tools}
    for done in range(rounds):
        slow = any(times.seconds and times.seconds[0] > _SLOW_SECONDS for times in row.values())
        if slow and done >= _SLOW_ROUNDS:
            break
        shift = done % len(tools)
        for tool in (*tools[shift:], *tools[:shift]):
            times = row[tool.name]
            if not times.failure:
                times.add(_run_once(tool, model))
    print(model.name, *(f"{name} {times.median:.2f} s" for name, times in row.items()), sep="  ")
    return row


def _run_once(tool: Tool, model: Model) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        ran = run(tool.command(model.path, target))
        missing = not ran.failed and not target.is_file()
        return replace(ran, code=1, said="it wrote no file") if missing else ran


def _cells(model: Model, row: Row) -> list[str]:
    times = [row[name].median for name in ("onnxopt", ONNXSIM.name, ONNXSLIM.name)]
    ratios = [ratio(row, name) for name in (ONNXSIM.name, ONNXSLIM.name, AGAIN)]
    cells = [model.name, f"{model.bytes / 1e6:.2f}"]
    return cells + ["failed" if math.isnan(value) else f"{value:.2f}" for value in times + ratios]
