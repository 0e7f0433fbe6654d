"""Quantizes one model with one tool, in a process of its own: `quantizers.py TOOL MODEL DATA OUT`.

OUT.json says how many seconds calibration took, null where there was none.
DATA is an .npz of samples or a folder of such files with one sample each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
Spent = list[float]


def feeds(data: Path) -> Iterator[Feed]:
    """The samples, one by one."""
    if data.is_dir():
        for path in sorted(data.glob("*.npz")):
            with np.load(path) as stored:
                yield {name: stored[name] for name in stored.files}
        return
    with np.load(data) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for row in range(len(next(iter(arrays.values())))):
        yield {name: array[row : row + 1] for name, array in arrays.items()}


def timed(function: Callable[..., Any], spent: Spent) -> Callable[..., Any]:
    """The function, which notes down the seconds it takes."""

    def run(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent.append(time.perf_counter() - start)

    return run


def ours(*more: str) -> Callable[[Path, Path, Path, Spent], None]:
    """`onnxopt quantize` as it is typed."""

    def quantize(model: Path, data: Path, out: Path, spent: Spent) -> None:
        from onnxopt.quantize import calibrate

        # Before anything else takes the function from there.
        calibrate.collect = timed(calibrate.collect, spent)
        from onnxopt.cli.main import run

        code = run(["quantize", str(model), "-o", str(out), "--data", str(data), *more])
        if not out.is_file():
            raise SystemExit(f"exit code {code}, and nothing was written")

    return quantize


def prepare(model: Path, out: Path) -> Path:
    """The model after onnxruntime's preparation, without symbolic shapes where they defeat it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_name("prepared.onnx")
    try:
        quant_pre_process(str(model), str(prepared))
    except Exception:  # it raises plain Exceptions
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    return prepared


def runtime_static(*, prepared: bool = False, **options: Any) -> Any:
    """onnxruntime's own static quantizer, after its own preparation where that is asked for."""

    def quantize(model: Path, data: Path, out: Path, spent: Spent) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization import calibrate as own

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            left = feeds(data)

            def get_next(self) -> Feed | None:
                return next(self.left, None)

        for kind in (own.MinMaxCalibrater, own.HistogramCalibrater):
            for name in (
                "augment_graph",
                "create_inference_session",
                "collect_data",
                "compute_data",
            ):
                if name in vars(kind):
                    setattr(kind, name, timed(getattr(kind, name), spent))
        source = prepare(model, out) if prepared else model
        types = {name: QuantType[kind] for name, kind in options.items() if name.endswith("_type")}
        quantize_static(str(source), str(out), Reader(), **{**options, **types})

    return quantize


def runtime_dynamic(**options: Any) -> Any:
    """onnxruntime's own dynamic quantizer, after its own preparation."""

    def quantize(model: Path, data: Path, out: Path, spent: Spent) -> None:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(str(prepare(model, out)), str(out), **options)

    return quantize


def simplifier(name: str, *, calibrated: bool) -> Any:
    """onnxsim's quantizers, on what onnxsim makes of the model."""

    def quantize(model: Path, data: Path, out: Path, spent: Spent) -> None:
        import onnx
        import onnxsim
        from onnxsim import calibration

        calibration.calibrate = timed(calibration.calibrate, spent)
        simple, _ = onnxsim.simplify(str(model))
        if calibrated:
            found = getattr(onnxsim, name)(simple, list(feeds(data)))
        else:
            found = getattr(onnxsim, name)(simple)
        onnx.save(found, str(out))

    return quantize


_BEST = {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}
TOOLS: dict[str, Callable[[Path, Path, Path, Spent], None]] = {
    "onnxopt": ours(),
    "onnxopt, dynamic": ours("--mode", "dynamic"),
    "onnxruntime, plain": runtime_static(),
    "onnxruntime, 8 bits": runtime_static(prepared=True, **_BEST),
    "onnxruntime, 7 bits": runtime_static(prepared=True, reduce_range=True, **_BEST),
    "onnxsim": simplifier("quantize_static", calibrated=True),
    "onnxruntime, dynamic": runtime_dynamic(),
    "onnxruntime, dynamic per channel": runtime_dynamic(per_channel=True),
    "onnxsim, dynamic": simplifier("quantize_dynamic", calibrated=False),
}


def main() -> None:
    """Quantize, and say how long calibration took."""
    tool, model, data, out = sys.argv[1], *(Path(each).resolve() for each in sys.argv[2:5])
    # onnxruntime's preparation leaves files where it runs.
    os.chdir(out.parent)
    spent: Spent = []
    TOOLS[tool](model, data, out, spent)
    told = json.dumps(sum(spent) if spent else None)
    out.with_suffix(".json").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
