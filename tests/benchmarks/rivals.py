"""What sections share that compare tools by the models they make: how good, how fast, how large."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.bench.timing import Timing, bench
from onnxopt.errors import RuntimeFailed
from tests.benchmarks.process import Ran, run
from tests.benchmarks.tables import Section
from tests.benchmarks.tasks import CALIBRATED, Feed, Quality, Task, outputs, quality, tasks
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.zoo import Model

LIMIT_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Made:
    """What a tool made of a model, and what it took.

    `ran` is None for models that no tool was run on; `told` is what the tool's script left in its
    JSON file.
    """

    tool: str
    path: Path
    ran: Ran | None = None
    told: Any = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A model that a tool made: how good, how fast and how large it is."""

    made: Made
    quality: Quality | None = None
    speed: tuple[float, float, float] | None = None
    bytes: int = 0
    failure: str = ""


def with_data(
    models: Sequence[Model], samples: int = CALIBRATED
) -> dict[Model, Callable[[Path], Task]] | None:
    """Those of the models that have data and a score; None where there is no zoo with any."""
    folder = next(
        (m.path.parents[2] for m in models if (m.path.parents[2] / "score.py").is_file()), None
    )
    if folder is None:
        return None
    known = tasks(folder, samples)
    return {model: known[model.name] for model in models if model.name in known}


def without_data(title: str, columns: Sequence[str]) -> Section:
    """A section that says why it is empty."""
    return Section(
        title,
        "Nothing was measured: this needs a zoo with labelled data and a score.py beside its "
        "models (`--zoo FOLDER/models`).",
        columns,
        [],
        {},
        {},
    )


def floats(model: Model, folder: Path) -> list[Made]:
    """The model as onnxopt leaves it, which all are compared with, and as it was exported."""
    cleaned = folder / "float.onnx"
    ran = run(onnxopt(freeze_inputs=model.overridable).command(model.path, cleaned))
    if ran.failed:
        raise SystemExit(f"optimizing {model.name} failed: {ran.said}")
    return [Made("float", cleaned), Made("float, as exported", model.path)]


def made_by(tool: str, script: Path, out: Path, *arguments: object) -> Made:
    """What a tool makes of a model, in a process of its own: `script TOOL ARGUMENTS OUT`."""
    command = [sys.executable, str(script), tool, *map(str, arguments), str(out)]
    ran = run(command, limit=LIMIT_SECONDS)
    if ran.failed or not out.is_file():
        return Made(tool, out, ran, failure=ran.said or f"exit code {ran.code}")
    return Made(tool, out, ran, json.loads(out.with_suffix(".json").read_text(encoding="utf-8")))


def stored(feeds: Sequence[Feed], folder: Path) -> Path:
    """The samples in one file, or in one each where their sizes differ."""
    if len({tuple(np.shape(array) for array in feed.values()) for feed in feeds}) == 1:
        path = folder / "samples.npz"
        np.savez(path, **{name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]})
        return path
    path = folder / "samples"
    path.mkdir()
    for index, feed in enumerate(feeds):
        np.savez(path / f"{index:04}.npz", **feed)
    return path


def measured(
    made: Sequence[Made], task: Task, seconds: float, threads: int
) -> tuple[list[Row], Timing]:
    """How good each is, and how fast beside the first, all timed in turns."""
    wanted = outputs(made[0].path, task)
    judged: dict[str, Quality] = {}
    broken: dict[str, str] = {}
    for each in (each for each in made if not each.failure):
        try:
            judged[each.tool] = quality(task, wanted, outputs(each.path, task))
        except Exception as error:  # onnxruntime's exceptions have no common base
            broken[each.tool] = f"{error}".splitlines()[0]
    running = [each for each in made if each.tool in judged]
    try:
        timing = bench(
            [each.path for each in running], names=[each.tool for each in running],
            feeds=[task.timed], threads=threads, seconds=seconds,
        )  # fmt: skip
    except RuntimeFailed as error:
        raise SystemExit(f"timing failed: {error.message}") from error
    speeds: Mapping[str, tuple[float, float, float]] = {
        each.name: (each.speedup.median, each.speedup.low, each.speedup.high)
        for each in timing.comparisons
    }
    rows = [
        Row(
            each,
            judged.get(each.tool),
            speeds.get(each.tool),
            each.path.stat().st_size if each.path.is_file() else 0,
            broken.get(each.tool, ""),
        )
        for each in made
    ]
    return rows, timing


def speed_cells(row: Row) -> tuple[str, str]:
    """How much faster than the first model, and the interval."""
    if row.speed is None:
        return "1", ""
    return f"{row.speed[0]:.2f}x", f"{row.speed[1]:.2f} to {row.speed[2]:.2f}"


def quality_cells(task: Task, found: Quality) -> tuple[str, str]:
    """The score, and the agreement where there are classes."""
    if not task.classes:
        return f"{found.score:.4f}", ""
    return f"{100 * found.score:.2f}", f"{100 * found.agreement:.2f}"


def cost_cells(ran: Ran | None) -> tuple[str, str]:
    """The seconds and the peak memory in MB that a tool took."""
    return ("", "") if ran is None else (f"{ran.seconds:.1f}", f"{ran.peak_bytes / 1e6:.0f}")


def failures(name: str, rows: Sequence[Row]) -> list[str]:
    """A word on each tool that failed."""
    found = [(row, row.made.failure or row.failure) for row in rows]
    return [f"{name}, {row.made.tool}: {failure}" for row, failure in found if failure]


def noise(name: str, timing: Timing) -> dict[str, str]:
    """How far the first model's time is from itself."""
    return {f"{name}: noise floor of the speeds": f"{100 * (timing.noise_floor - 1):.1f}%"}
