"""Quantizers side by side: accuracy, speed, size, time to quantize and the memory that takes."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.bench.timing import Timing, bench
from onnxopt.errors import RuntimeFailed
from onnxopt.report.record import plain
from tests.benchmarks.process import Ran, run
from tests.benchmarks.tables import Section
from tests.benchmarks.tasks import CALIBRATED, Feed, Quality, Task, outputs, quality, tasks
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.zoo import Model

_SCRIPT = Path(__file__).with_name("quantizers.py")
_LIMIT_SECONDS = 900
_RUNTIME = ("onnxruntime, plain", "onnxruntime, 8 bits", "onnxruntime, 7 bits")
_IMAGES = ("onnxopt", *_RUNTIME, "onnxsim")
_TEXT = (
    "onnxopt, dynamic",
    "onnxruntime, 7 bits",
    "onnxruntime, dynamic",
    "onnxruntime, dynamic per channel",
    "onnxsim, dynamic",
)
_NUMBERS = ("score", "agreement", "SQNR dB", "speed", "95% interval", "MB", "s", "calibration s")
COLUMNS = ("model", "tool", *(f">{name}" for name in (*_NUMBERS, "peak MB")))


@dataclass(frozen=True, slots=True)
class Made:
    """What a tool made of a model, and what it took; `ran` is None for float models."""

    tool: str
    path: Path
    ran: Ran | None = None
    calibration: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A model that a tool made: how good, how fast and how large it is."""

    made: Made
    quality: Quality | None = None
    speed: tuple[float, float, float] | None = None
    bytes: int = 0
    failure: str = ""


def section(models: Sequence[Model], *, seconds: float, threads: int = 1) -> Section:
    """Quantize each model that has data with all tools, and time what they made in turns.

    `models` without data are left out; `seconds` is how long the models of a table are timed.
    """
    folder = next((m.path.parents[2] for m in models if (m.path.parents[2] / "score.py").is_file()),
                  None)  # fmt: skip
    if folder is None:
        return _without_data()
    known = tasks(folder)
    rows: list[list[str]] = []
    data: dict[str, object] = {}
    summary: dict[str, str] = {}
    notes: list[str] = []
    for model in (model for model in models if model.name in known):
        with tempfile.TemporaryDirectory() as place:
            task = known[model.name](model.path)
            made = _made(model, task, Path(place))
            found, timing = _measured(made, task, seconds, threads)
        for row in found:
            cells = _cells(model.name, task, row)
            rows.append(cells)
            print(*cells, sep="  ", flush=True)
            if row.made.failure or row.failure:
                notes.append(f"{model.name}, {row.made.tool}: {row.made.failure or row.failure}")
        floor = 100 * (timing.noise_floor - 1)
        summary[f"{model.name}: noise floor of the speeds"] = f"{floor:.1f}%"
        data[model.name] = {"rows": plain(found), "timing": plain(timing)}
    return Section(
        "Quantizers",
        f"All tools calibrate on the same {CALIBRATED} samples, each in a process of its own; its "
        "wall time and peak memory are given, and how much of the time was calibration. The score "
        "is told on other samples. Speeds are against the float model as `onnxopt optimize` "
        f"leaves it, on {threads} thread, in turns in one run. onnxruntime's quantizer runs plain, "
        "and after its own preparation with uint8 activations and int8 weights per channel, in 8 "
        "bits and with `reduce_range` in 7.",
        COLUMNS,
        rows,
        summary,
        data,
        notes,
    )


def _without_data() -> Section:
    return Section(
        "Quantizers",
        "Nothing was measured: this needs a zoo with labelled data and a score.py beside its "
        "models (`--zoo FOLDER/models`).",
        COLUMNS,
        [],
        {},
        {},
    )


def _made(model: Model, task: Task, folder: Path) -> list[Made]:
    """The float models first, then what the tools make of the one that was exported."""
    cleaned = folder / "float.onnx"
    ran = run(onnxopt(freeze_inputs=model.overridable).command(model.path, cleaned))
    if ran.failed:
        raise SystemExit(f"optimizing {model.name} failed: {ran.said}")
    stored = _stored(task.calibration, folder)
    made = [Made("float", cleaned), Made("float, as exported", model.path)]
    for index, tool in enumerate(_IMAGES if task.classes else _TEXT):
        place = folder / f"{index}"
        place.mkdir()
        made.append(quantized(tool, model.path, stored, place / "quantized.onnx"))
        ran = made[-1].ran
        assert ran is not None
        print(f"{model.name}: {tool} took {ran.seconds:.1f} s", flush=True)
    return made


def quantized(tool: str, model: Path, stored: Path, out: Path) -> Made:
    """What a tool makes of a model, in a process of its own."""
    command = [sys.executable, str(_SCRIPT), tool, str(model), str(stored), str(out)]
    ran = run(command, limit=_LIMIT_SECONDS)
    if ran.failed or not out.is_file():
        return Made(tool, out, ran, failure=ran.said or f"exit code {ran.code}")
    seconds = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return Made(tool, out, ran, seconds)


def _stored(feeds: Sequence[Feed], folder: Path) -> Path:
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


def _measured(
    made: Sequence[Made], task: Task, seconds: float, threads: int
) -> tuple[list[Row], Timing]:
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


def _cells(name: str, task: Task, row: Row) -> list[str]:
    made, found = row.made, row.quality
    if found is None:
        return [name, made.tool, "failed", *[""] * (len(COLUMNS) - 3)]
    ran = made.ran
    speed = ("1", "") if row.speed is None else (
        f"{row.speed[0]:.2f}x", f"{row.speed[1]:.2f} to {row.speed[2]:.2f}"
    )  # fmt: skip
    return [
        name,
        made.tool,
        f"{100 * found.score:.2f}" if task.classes else f"{found.score:.4f}",
        "" if math.isnan(found.agreement) else f"{100 * found.agreement:.2f}",
        "exact" if found.sqnr_db > 100 else f"{found.sqnr_db:.1f}",
        *speed,
        f"{row.bytes / 1e6:.2f}",
        "" if ran is None else f"{ran.seconds:.1f}",
        "" if made.calibration is None else f"{made.calibration:.2f}",
        "" if ran is None else f"{ran.peak_bytes / 1e6:.0f}",
    ]
