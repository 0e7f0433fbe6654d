"""How many nodes are left: onnxopt against the best right result of the rivals, by model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.judge import MAX_GROWTH, agree, count_nodes, grew, outputs
from tests.benchmarks.process import run
from tests.benchmarks.tables import Section
from tests.benchmarks.tools import RIVALS, Tool, onnxopt
from tests.benchmarks.zoo import Model, feed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool left of a model: its nodes, and why the result does not count ("" if it does)."""

    nodes: int | None
    fault: str

    @property
    def counted(self) -> int | None:
        """The nodes of a result that counts."""
        return None if self.fault else self.nodes

    def __str__(self) -> str:
        count = "" if self.nodes is None else f"{self.nodes}"
        return count if not self.fault else f"{count} ({self.fault})".strip()


def section(models: Sequence[Model], command: str | None = None) -> Section:
    """Optimize each model with every tool, check the result, and count its nodes."""
    rows: list[list[str]] = []
    data: dict[str, Any] = {}
    behind: list[str] = []
    for model in models:
        tools = (onnxopt(command, freeze_inputs=model.overridable), *RIVALS)
        found = _measure(model, tools)
        data[model.name] = {name: [o.nodes, o.fault] for name, o in found.items()}
        ours, *rivals = (outcome.counted for outcome in found.values())
        best = min((count for count in rivals if count is not None), default=None)
        if ours is None or (best is not None and ours > best):
            behind.append(model.name)
        before = f"{count_nodes(model.path)}"
        frozen = "yes" if model.overridable else ""
        rows.append([model.name, before, *map(str, found.values()), frozen])
        print(model.name, *(f"{name} {o}" for name, o in found.items()), sep="  ")
    rows = [[*row[:-1], "" if row[0] not in behind else "behind", row[-1]] for row in rows]
    names = [f">{tool.name}" for tool in (onnxopt(command), *RIVALS)]
    return Section(
        "Nodes",
        "Constant nodes are not counted, those in bodies and local functions are. A result counts "
        "where onnxruntime (optimizations off) gives the same outputs as before and the file is at "
        f"most {MAX_GROWTH}x its size plus 64 kB; in brackets is why one does not. Where weights "
        "may be overridden by a caller (frozen), onnxopt runs with `--freeze-inputs`, as the "
        "others take them for constants.",
        ("model", ">before", *names, "", "frozen"),
        rows,
        {"models": f"{len(models)}", "behind the best rival": ", ".join(behind) or "none"},
        data,
    )


def _measure(model: Model, tools: Sequence[Tool]) -> dict[str, Outcome]:
    given = feed(model)
    try:
        expected: list[Any] | None = outputs(model.path, given)
    except Exception:  # onnxruntime's exceptions have no common base
        expected = None
    return {tool.name: _outcome(tool, model, given, expected) for tool in tools}


def _outcome(tool: Tool, model: Model, given: Any, expected: list[Any] | None) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        ran = run(tool.command(model.path, target))
        if ran.failed or not target.is_file():
            return Outcome(None, "failed")
        nodes = count_nodes(target)
        if grew(model.bytes, target.parent):
            return Outcome(nodes, "grew")
        if expected is None:  # it needs operators that plain onnxruntime does not have
            return Outcome(nodes, "")
        try:
            found = outputs(target, given)
        except Exception:  # onnxruntime's exceptions have no common base
            return Outcome(nodes, "does not run")
        return Outcome(nodes, "" if agree(expected, found) else "wrong")
