"""Runs a model where products are added in 16 bits: onnxruntime on an emulated CPU without VNNI.

Called as a program, by an interpreter that the emulator runs: `no_vnni.py MODEL INPUTS OUTPUTS`,
with INPUTS an npz of feeds `NUMBER/NAME` and OUTPUTS an npz of the first output, once with
onnxruntime's optimizations ("on/NUMBER") and once without ("off/NUMBER").
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

EMULATOR = shutil.which("qemu-x86_64")
"""QEMU's user mode emulates AVX2 and no AVX-512, so onnxruntime takes its kernels without VNNI."""

CPU = "Haswell-noTSX"


def both_ways(model: bytes, feeds: list[dict[str, Any]]) -> dict[str, Any]:
    """The first output of each feed, "on" and "off" as above: arrays [feeds, ...]."""
    import onnxruntime as ort

    levels = {
        "on": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    found = {}
    for name, level in levels.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = level
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found[name] = np.stack([session.run(None, feed)[0] for feed in feeds])
    return found


def emulated(model: bytes, feeds: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What `both_ways` finds on a CPU with AVX2 and without VNNI."""
    assert EMULATOR is not None
    (folder / "model.onnx").write_bytes(model)
    numbered = {
        f"{i}/{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()
    }
    np.savez(folder / "inputs.npz", **numbered)
    names = [str(folder / name) for name in ("model.onnx", "inputs.npz", "outputs.npz")]
    command = [EMULATOR, "-cpu", CPU, sys.executable, __file__, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(names[2]) as stored:
        return {name: stored[name] for name in stored.files}


def main() -> None:
    model, inputs, outputs = sys.argv[1:]
    feeds: dict[int, dict[str, Any]] = {}
    with np.load(inputs) as stored:
        for key in stored.files:
            number, name = key.split("/", 1)
            feeds.setdefault(int(number), {})[name] = stored[key]
    found = both_ways(Path(model).read_bytes(), [feeds[number] for number in sorted(feeds)])
    np.savez(outputs, **found)


if __name__ == "__main__":
    main()
