"""Pruners side by side: accuracy over the work that is left, speed, and what the pruning takes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt import io
from onnxopt.bench.cost import Cost, cost_at
from onnxopt.report.page import Curve, Heading, Line, Series, Table
from onnxopt.report.record import plain
from tests.benchmarks import rivals
from tests.benchmarks.pruners import TOOLS
from tests.benchmarks.rivals import Made, Row
from tests.benchmarks.tables import Section
from tests.benchmarks.tasks import Task
from tests.benchmarks.zoo import Model

TITLE = "Pruners"
RATIOS = (0.9, 0.85, 0.75, 0.6)
"""Shares of the multiply-accumulates to keep."""
SAMPLES = {"cifar": 1000, "effnet": 200}
"""Images without labels that all tools are given, by the first word of a model's name."""
USUAL = ("effnet_lite0_ts",)
"""What is measured unless a model is asked for; a model takes half an hour."""
FEW, TENFOLD, TINY_BYTES = 100, 1000, 64_000
"""Peaks are compared for so many samples, which takes less than a minute where they are tiny."""
_SCRIPT = Path(__file__).with_name("pruners.py")
_NUMBERS = (
    "asked", "top-1", "agreement", "MACs", "parameters", "speed", "95% interval", "s", "peak MB",
)  # fmt: skip
COLUMNS = ("model", "tool", *(f">{name}" for name in _NUMBERS))
TEXT = (
    "Each tool removes channels down to a share of the multiply-accumulates (asked), with the same "
    "images without labels, in a process of its own, whose wall time and peak memory are given. "
    "Top-1 is told on other images, agreement with the float model on the same; MACs and "
    "parameters are shares of the float model's as `onnxopt optimize` leaves it. Speeds are "
    "against that model, on {threads} thread, all in turns in one run. onnxopt is the plain "
    "command. `magnitude, as Torch-Pruning` is not Torch-Pruning itself, which does not read ONNX: "
    "it is onnxopt's own ranking by L2 norm of a group's weights over the group's mean, over all "
    "layers, to any count of channels, nothing recovered. "
    "onnxsim takes a share of each layer's channels instead of a "
    "target: the share is searched for that leaves the work asked for, and its seconds are those "
    "of the one call with that share; its peak is that of the search."
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A model that a tool made, the share of the work that was asked for, and what it costs."""

    row: Row
    asked: float
    cost: Cost | None


def section(
    models: Sequence[Model],
    *,
    seconds: float,
    threads: int = 1,
    ratios: Sequence[float] = RATIOS,
    tools: Sequence[str] = tuple(TOOLS),
    every: bool = True,
) -> Section:
    """Prune each image model that has data with all tools, and time what they made in turns.

    `models` without data are left out, and without `every` all but the usual ones; `seconds` is
    how long the models of a table are timed for each of the `ratios`.
    """
    chosen = [model for model in models if every or model.name in USUAL]
    known = rivals.with_data(chosen, max(SAMPLES.values()))
    if known is None:
        return rivals.without_data(TITLE, COLUMNS)
    rows: list[list[str]] = []
    data: dict[str, object] = {}
    summary: dict[str, str] = {}
    notes: list[str] = []
    page: list[Heading | Line | Curve | Table] = [Heading("Accuracy over work, by pruner")]
    for model, task_of in known.items():
        task = task_of(model.path)
        if not task.classes:
            continue
        with tempfile.TemporaryDirectory() as place:
            made = _made(model, task, Path(place), ratios, tools)
            timed = seconds * len(ratios)
            if sum(each.nbytes for each in task.timed.values()) <= TINY_BYTES:
                summary |= _growth(model, task, Path(place), notes)
            found, timing = rivals.measured([each for _, each in made], task, timed, threads)
            pruned = [
                Pruned(row, asked, _cost(row)) for row, (asked, _) in zip(found, made, strict=True)
            ]
        for each in pruned:
            rows.append(_cells(model.name, task, each, pruned[0]))
            print(*rows[-1], sep="  ", flush=True)
        notes += rivals.failures(model.name, found)
        summary |= rivals.noise(model.name, timing)
        data[model.name] = {"rows": plain(pruned), "timing": plain(timing)}
        page += [Heading(model.name), curve(pruned)]
    page += [Heading("Measured"), Table(COLUMNS, tuple(map(tuple, rows)))]
    text = TEXT.format(threads=threads)
    return Section(
        TITLE, text, COLUMNS, rows, summary, data, notes, picture=(*page, Line(text, "quiet"))
    )


def _made(
    model: Model, task: Task, folder: Path, ratios: Sequence[float], tools: Sequence[str]
) -> list[tuple[float, Made]]:
    """The float models first, then what the tools make of the one that was exported."""
    count = SAMPLES.get(model.name.split("_")[0], 100)
    samples = rivals.stored(task.calibration[:count], folder)
    made = [(1.0, each) for each in rivals.floats(model, folder)]
    for asked in ratios:
        for index, tool in enumerate(tools):
            place = folder / f"{asked:g}_{index}"
            place.mkdir()
            found = rivals.made_by(tool, _SCRIPT, place / "pruned.onnx", model.path, samples, asked)
            made.append((asked, _named(found, asked)))
            assert found.ran is not None
            print(f"{model.name}: {tool}, {asked:g}: {found.ran.seconds:.1f} s", flush=True)
    return made


def _growth(model: Model, task: Task, folder: Path, notes: list[str]) -> dict[str, str]:
    """What ten times the samples add to onnxopt's memory."""
    peaks = []
    for count in (FEW, TENFOLD):
        place = folder / f"{count}"
        place.mkdir()
        feeds = itertools.islice(itertools.cycle(task.calibration), count)
        samples = rivals.stored(list(feeds), place)
        made = rivals.made_by(
            "onnxopt", _SCRIPT, place / "pruned.onnx", model.path, samples, RATIOS[0]
        )
        if made.failure:
            notes.append(f"{model.name}, {count} samples: {made.failure}")
            return {}
        assert made.ran is not None
        peaks.append(made.ran.peak_bytes)
    label = f"peak memory of {TENFOLD:,} samples over {FEW}, {model.name}"
    return {label: f"{peaks[1] / peaks[0]:.3f}x"}


def _named(made: Made, asked: float) -> Made:
    """The same under a name of its own among all ratios."""
    return Made(f"{made.tool}, {asked:g}", made.path, made.ran, made.told, made.failure)


def _cost(row: Row) -> Cost | None:
    return None if row.quality is None else cost_at(io.load(row.made.path))


def _cells(name: str, task: Task, pruned: Pruned, whole: Pruned) -> list[str]:
    row, cost, base = pruned.row, pruned.cost, whole.cost
    asked = "" if row.made.ran is None else f"{pruned.asked:g}"
    if row.quality is None or cost is None or base is None:
        return [name, tool_of(row.made), asked, "failed", *[""] * (len(COLUMNS) - 4)]
    seconds, peak = rivals.cost_cells(row.made.ran)
    own = (row.made.told or {}).get("seconds")
    return [
        name,
        tool_of(row.made),
        asked,
        *rivals.quality_cells(task, row.quality),
        f"{share_of_work(cost, base):.3f}",
        f"{cost.parameters / base.parameters:.3f}",
        *rivals.speed_cells(row),
        seconds if own is None else f"{own:.1f}",
        peak,
    ]


def tool_of(made: Made) -> str:
    """The tool's name without the ratio."""
    return made.tool if made.ran is None else made.tool.rpartition(", ")[0]


def share_of_work(cost: Cost, whole: Cost) -> float:
    """The multiply-accumulates as a share of the whole model's."""
    return (cost.macs or 0) / (whole.macs or 1)


def curve(pruned: Sequence[Pruned]) -> Curve:
    """Accuracy over the work that is left, a line for each tool, all from the float model on."""
    whole = pruned[0]
    assert whole.cost is not None and whole.row.quality is not None
    start = (1.0, 100 * whole.row.quality.score)
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in pruned:
        quality = each.row.quality
        if each.row.made.ran is not None and quality is not None and each.cost is not None:
            place = (share_of_work(each.cost, whole.cost), 100 * quality.score)
            lines.setdefault(tool_of(each.row.made), [start]).append(place)
    series = tuple(Series(tool, tuple(sorted(points))) for tool, points in lines.items())
    return Curve("share of the multiply-accumulates kept", "top-1, %", series, limit=start[1])
