"""Quantizers side by side: accuracy, speed, size, time to quantize and the memory that takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnxopt.report.record import plain
from tests.benchmarks import rivals
from tests.benchmarks.rivals import Made, Row
from tests.benchmarks.tables import Section
from tests.benchmarks.tasks import CALIBRATED, Task
from tests.benchmarks.zoo import Model

TITLE = "Quantizers"
_SCRIPT = Path(__file__).with_name("quantizers.py")
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


def section(models: Sequence[Model], *, seconds: float, threads: int = 1) -> Section:
    """Quantize each model that has data with all tools, and time what they made in turns.

    `models` without data are left out; `seconds` is how long the models of a table are timed.
    """
    known = rivals.with_data(models)
    if known is None:
        return rivals.without_data(TITLE, COLUMNS)
    rows: list[list[str]] = []
    data: dict[str, object] = {}
    summary: dict[str, str] = {}
    notes: list[str] = []
    for model, task_of in known.items():
        with tempfile.TemporaryDirectory() as place:
            task = task_of(model.path)
            found, timing = rivals.measured(_made(model, task, Path(place)), task, seconds, threads)
        for row in found:
            rows.append(_cells(model.name, task, row))
            print(*rows[-1], sep="  ", flush=True)
        notes += rivals.failures(model.name, found)
        summary |= rivals.noise(model.name, timing)
        data[model.name] = {"rows": plain(found), "timing": plain(timing)}
    return Section(
        TITLE,
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


def _made(model: Model, task: Task, folder: Path) -> list[Made]:
    """The float models first, then what the tools make of the one that was exported."""
    samples = rivals.stored(task.calibration, folder)
    made = rivals.floats(model, folder)
    for index, tool in enumerate(_IMAGES if task.classes else _TEXT):
        place = folder / f"{index}"
        place.mkdir()
        made.append(quantized(tool, model.path, samples, place / "quantized.onnx"))
        ran = made[-1].ran
        assert ran is not None
        print(f"{model.name}: {tool} took {ran.seconds:.1f} s", flush=True)
    return made


def quantized(tool: str, model: Path, samples: Path, out: Path) -> Made:
    """What a tool makes of a model; it tells how many seconds calibration took, if any."""
    return rivals.made_by(tool, _SCRIPT, out, model, samples)


def _cells(name: str, task: Task, row: Row) -> list[str]:
    made, found = row.made, row.quality
    if found is None:
        return [name, made.tool, "failed", *[""] * (len(COLUMNS) - 3)]
    seconds, peak = rivals.cost_cells(made.ran)
    return [
        name,
        made.tool,
        *rivals.quality_cells(task, found),
        "exact" if found.sqnr_db > 100 else f"{found.sqnr_db:.1f}",
        *rivals.speed_cells(row),
        f"{row.bytes / 1e6:.2f}",
        seconds,
        "" if made.told is None else f"{made.told:.2f}",
        peak,
    ]
