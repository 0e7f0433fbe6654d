"""A 1.3 GB model with external data: the time and memory of a command that must not read it all."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.process import Ran, run
from tests.benchmarks.tables import Section
from tests.benchmarks.tools import RIVALS, Tool, onnxopt
from tests.benchmarks.transformer import write_bert_large

_LOAD_AND_SAVE = (
    "import sys, onnx_ir as ir;"
    "ir.save(ir.load(sys.argv[1]), sys.argv[2], external_data='out.onnx.data')"
)
BASE = Tool(
    "onnx_ir load and save",
    lambda source, target: [sys.executable, "-c", _LOAD_AND_SAVE, str(source), str(target)],
)


def section(command: str | None = None, *, rounds: int = 3, rivals: bool = False) -> Section:
    """Optimize BERT-large and load and save it, in turns; the rivals once, where asked for."""
    ours = onnxopt(command)
    runs: dict[str, list[Ran]] = {ours.name: [], BASE.name: []}
    with tempfile.TemporaryDirectory() as folder:
        source = write_bert_large(Path(folder))
        for done in range(rounds):
            for tool in (ours, BASE) if done % 2 else (BASE, ours):
                runs[tool.name].append(_run(tool, source))
        for tool in RIVALS if rivals else ():
            runs[tool.name] = [_run(tool, source)]
    base = _seconds(runs[BASE.name])
    return Section(
        "A model of 1.3 GB",
        "BERT-large with random weights, made by this benchmark, its weights in an external file: "
        f"the whole command, the median of {rounds} runs.",
        ("", ">seconds", ">/ load and save", ">peak memory GB"),
        [_cells(name, found, base) for name, found in runs.items()],
        {},
        {
            name: [[ran.code, ran.seconds, ran.peak_bytes] for ran in found]
            for name, found in runs.items()
        },
    )


def _run(tool: Tool, source: Path) -> Ran:
    # The target is on the same file system and not the default temporary one, which may be memory.
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        ran = run(tool.command(source, Path(folder) / "out.onnx"))
    print(tool.name, f"{ran.seconds:.2f} s", f"{ran.peak_bytes / 1e9:.2f} GB", ran.said, sep="  ")
    return ran


def _seconds(runs: list[Ran]) -> float:
    return statistics.median(ran.seconds for ran in runs)


def _cells(name: str, runs: list[Ran], base: float) -> list[str]:
    if any(ran.failed for ran in runs):
        return [name, "failed", "", ""]
    seconds, peak = _seconds(runs), max(ran.peak_bytes for ran in runs)
    return [name, f"{seconds:.2f}", f"{seconds / base:.2f}", f"{peak / 1e9:.2f}"]
