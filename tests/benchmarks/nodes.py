"""How many nodes are left: onnxopt against the best right result of the rivals, by model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.judge import MAX_GROWTH, SPARE_BYTES, agree, count_nodes, grew, outputs
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
    found = {model.name: _measure(model, command) for model in models}
    behind = [name for name, outcomes in found.items() if _behind(outcomes)]
    names = [f">{tool.name}" for tool in (onnxopt(command), *RIVALS)]
    return Section(
        "Nodes",
        "Constant nodes are not counted, those in bodies and local functions are. A result counts "
        "where onnxruntime (optimizations off) gives the same outputs as before and the file is at "
        f"most {MAX_GROWTH}x its size plus {SPARE_BYTES // 1024} KiB; in brackets is why one does "
        "not. Where weights may be overridden by a caller (frozen), onnxopt runs with "
        "`--freeze-inputs`, as the others take them for constants.",
        ("model", ">before", *names, "frozen"),
        [_cells(model, found[model.name]) for model in models],
        {"models": f"{len(models)}", "behind the best rival": ", ".join(behind) or "none"},
        {
            name: {tool: [outcome.nodes, outcome.fault] for tool, outcome in outcomes.items()}
            for name, outcomes in found.items()
        },
    )


def _behind(outcomes: Mapping[str, Outcome]) -> bool:
    """Whether our result does not count, or a rival's that counts has fewer nodes."""
    ours, *rivals = (outcome.counted for outcome in outcomes.values())
    return ours is None or any(count is not None and count < ours for count in rivals)


def _cells(model: Model, outcomes: Mapping[str, Outcome]) -> list[str]:
    before, frozen = f"{count_nodes(model.path)}", "yes" if model.overridable else ""
    return [model.name, before, *map(str, outcomes.values()), frozen]


def _measure(model: Model, command: str | None) -> dict[str, Outcome]:
    given = feed(model)
    try:
        expected: list[Any] | None = outputs(model.path, given)
    except Exception:  # onnxruntime's exceptions have no common base
        expected = None
    tools = (onnxopt(command, freeze_inputs=model.overridable), *RIVALS)
    found = {tool.name: _outcome(tool, model, given, expected) for tool in tools}
    print(model.name, *(f"{name} {outcome}" for name, outcome in found.items()), sep="  ")
    return found


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
