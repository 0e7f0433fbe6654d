"""How long calibration takes and how much memory, beside onnxruntime's own calibrators."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.process import run
from tests.benchmarks.tables import Section
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.zoo import Model, feed

METHODS = ("minmax", "percentile", "entropy")
EVERY_METHOD = ("minmax", "average", "percentile", "entropy", "mse")
# onnxruntime keeps every value of every sample for percentile and entropy: 64 MB for a photo.
SAMPLES, SMALL_BYTES, SAMPLES_IF_SMALL = 40, 5_000_000, 300
MANY, TENFOLD = 100, 1000
TYPICAL = ("cifar_resnet20_ts", "cifar_resnet56_ts", "effnet_lite0_ts", "minilm_l6_sdpa_ts")
_COLUMNS = ("model", "method", ">ms a sample", ">onnxruntime", ">share", ">MB", ">onnxruntime")

_READ = """
import json, sys, time
import numpy as np
path, data, method, count = sys.argv[1:5]
stored = np.load(data)
def feeds():
    for index in range(int(count)):
        # Each sample is another one: a tenth of it is moved along.
        yield {name: np.roll(stored[name], index) for name in stored.files}
"""
_OURS = f"""{_READ}
from onnxopt import io
from onnxopt.quantize.calibrate import collect
import onnxruntime
start = time.perf_counter()
found = collect(io.load(path), feeds(), method=method)
print(json.dumps([time.perf_counter() - start, len(found)]))
"""
_THEIRS = f"""{_READ}
import os, tempfile
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = feeds()
    def get_next(self):
        return next(self.left, None)
chosen = dict(minmax="MinMax", percentile="Percentile", entropy="Entropy")[method]
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    calibrator = create_calibrator(
        path, list({{**QLinearOpsRegistry, **QDQRegistry}}), os.path.join(folder, "augmented.onnx"),
        calibrate_method=CalibrationMethod[chosen])
    calibrator.collect_data(Reader())
    found = calibrator.compute_data().data
print(json.dumps([time.perf_counter() - start, len(found)]))
"""
_TOOLS = {"onnxopt": _OURS, "onnxruntime": _THEIRS}


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One run: seconds without start-up, the peak of the process, how many ranges were found.

    Where it failed there are none of these but the last line it wrote.
    """

    seconds: float = math.nan
    peak_bytes: int = 0
    ranges: int = 0
    failure: str = ""


def section(models: Sequence[Model], command: str | None = None, *, rounds: int = 3) -> Section:
    """Calibrate models by each method with both tools, then with ten times the data.

    Of many models four are taken that stand for the others. More data is given for every method to
    the first of them, and for percentile to the others.
    """
    models = [model for model in models if model.name in TYPICAL] or models[:3]
    rows: list[list[str]] = []
    data: dict[str, object] = {}
    growth: dict[str, str] = {}
    failures: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            path, stored = _prepared(model, Path(folder), command)
            count = SAMPLES_IF_SMALL if model.bytes < SMALL_BYTES else SAMPLES
            for method in METHODS:
                found = _measured(path, stored, method, count, rounds)
                rows.append(_cells(model.name, method, count, found))
                print(*rows[-1], sep="  ")
                runs = [each for tool in found.values() for each in tool]
                failures |= {each.failure: None for each in runs if each.failure}
                data[f"{model.name}, {method}"] = {
                    tool: [asdict(each) for each in runs] for tool, runs in found.items()
                }
            for method in EVERY_METHOD if model is models[0] else ("percentile",):
                few, many = (_run("onnxopt", path, stored, method, n) for n in (MANY, TENFOLD))
                growth[
                    f"peak memory of {TENFOLD:,} samples over {MANY}, {model.name}, {method}"
                ] = f"{many.peak_bytes / max(few.peak_bytes, 1):.3f}x"
    return Section(
        "Calibration",
        f"{SAMPLES} samples, {SAMPLES_IF_SMALL} for small models, on the model after `onnxopt "
        f"optimize`, the median of {rounds} runs in turns, without start-up. The memory is the "
        "peak of the whole process.",
        _COLUMNS,
        rows,
        growth,
        data,
        list(failures),
    )


def _prepared(model: Model, folder: Path, command: str | None) -> tuple[Path, Path]:
    tool = onnxopt(command, freeze_inputs=model.overridable)
    path, stored = folder / f"{model.name}.onnx", folder / f"{model.name}.npz"
    ran = run(tool.command(model.path, path))
    if ran.failed:
        raise SystemExit(f"optimizing {model.name} failed: {ran.said}")
    arrays: Mapping[str, np.ndarray] = feed(model)
    np.savez(stored, **arrays)
    return path, stored


def _measured(
    path: Path, stored: Path, method: str, count: int, rounds: int
) -> dict[str, list[Calibrated]]:
    found: dict[str, list[Calibrated]] = {tool: [] for tool in _TOOLS}
    for _, tool in itertools.product(range(rounds), _TOOLS):
        found[tool].append(_run(tool, path, stored, method, count))
    return found


def _run(tool: str, path: Path, stored: Path, method: str, count: int) -> Calibrated:
    code = [sys.executable, "-c", _TOOLS[tool]]
    ran = run([*code, str(path), str(stored), method, str(count)], limit=1200)
    if ran.failed:
        return Calibrated(failure=f"{tool} failed on {path.stem} with {method}: {ran.said}")
    seconds, ranges = json.loads(ran.said)
    return Calibrated(seconds, ran.peak_bytes, ranges)


def _cells(
    name: str, method: str, count: int, found: Mapping[str, Sequence[Calibrated]]
) -> list[str]:
    times = [statistics.median(each.seconds for each in runs) for runs in found.values()]
    peaks = [statistics.median(each.peak_bytes for each in runs) for runs in found.values()]
    return [
        name,
        method,
        *(f"{1000 * seconds / count:.1f}" for seconds in times),
        f"{times[0] / times[1]:.2f}x",
        *(f"{peak / 1e6:.0f}" for peak in peaks),
    ]
