"""One record of a run; every face of it (terminal, Markdown, JSON) is drawn from this."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxopt.config import Exactness, Options

if TYPE_CHECKING:
    from onnxopt.bench.cost import Cost
    from onnxopt.bench.timing import Timing
    from onnxopt.check.metric import Score
    from onnxopt.check.parity import Parity
    from onnxopt.passes.base import Refusal, Step


@dataclass(frozen=True, slots=True)
class Versions:
    """What ran where: package versions, the execution provider and the processor's name."""

    onnxopt: str
    onnx: str
    onnxruntime: str
    numpy: str
    python: str
    provider: str
    cpu: str

    @classmethod
    def here(cls, provider: str = "CPUExecutionProvider") -> Versions:
        """The versions installed in this environment; an empty string where one is not known."""
        packages = {name: _installed(name) for name in ("onnxopt", "onnx", "onnxruntime", "numpy")}
        return cls(**packages, python=platform.python_version(), provider=provider, cpu=_cpu_name())


class Record:
    """What is told of a run as a whole."""

    __slots__ = ()

    def to_json(self) -> str:
        """The whole record as one JSON document (RFC 8259: NaN and infinities become strings)."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Report(Record):
    """What `optimize` did to one model, and what the result was found to be.

    `source` and `output` are paths, or a word in angle brackets for a model in memory; `parity` and
    `timing` are None where proof or timing was left out; `exactness` is the weakest class that
    fired and was kept; `seconds` is the wall time of the whole run.
    """

    source: str
    output: str
    before: Cost
    after: Cost
    steps: tuple[Step, ...]
    parity: Parity | None
    timing: Timing | None
    exactness: Exactness
    options: Options
    versions: Versions
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def fired(self) -> tuple[Fired, ...]:
        """What fired in the steps that were kept, most frequent first."""
        total: Counter[tuple[str, str]] = Counter()
        for step in self.steps:
            if step.verdict == "kept":
                total.update({(step.name, what): count for what, count in step.hits.items()})
        found = [Fired(step, what, count) for (step, what), count in total.items()]
        return tuple(sorted(found, key=lambda each: (-each.times, each.step, each.what)))

    @property
    def refusals(self) -> tuple[RefusalGroup, ...]:
        """Why what did not apply did not, most frequent reason first."""
        return grouped(refusal for step in self.steps for refusal in step.refusals)

    @property
    def undone(self) -> tuple[Step, ...]:
        """The steps that broke a promise and were taken back."""
        return tuple(step for step in self.steps if step.verdict == "undone")

    @property
    def passed(self) -> bool:
        """True unless the result was found not to agree with the original."""
        return self.parity is None or self.parity.passed


@dataclass(frozen=True, slots=True)
class Fired:
    """How often a step did one thing: a rule that fired, an operator that was folded."""

    step: str
    what: str
    times: int


@dataclass(frozen=True, slots=True)
class RefusalGroup:
    """One reason of one rule or pass, with the names of the nodes it was given for."""

    subject: str
    reason: str
    nodes: tuple[str, ...] = field(default=())


def grouped(refusals: Iterable[Refusal]) -> tuple[RefusalGroup, ...]:
    """Refusals by subject and reason, most frequent first, each node named once."""
    nodes: dict[tuple[str, str], dict[str, None]] = {}
    for refusal in refusals:
        nodes.setdefault((refusal.subject, refusal.reason), {})[refusal.node] = None
    groups = [
        RefusalGroup(subject, reason, tuple(names)) for (subject, reason), names in nodes.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.nodes), group.subject, group.reason)))


def holds(score: Score | None, max_drop: float | None) -> bool:
    """Whether no more was lost than allowed; where nothing is asked for or known, so it is."""
    return score is None or max_drop is None or score.within(max_drop)


def to_json(record: object) -> str:
    """Any record of this package as one JSON document."""
    return json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """`value` in types that JSON has; mappings come out sorted by key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, tuple | list | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _installed(package: str) -> str:
    """The installed version of `package`, read from its metadata so that nothing is imported."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    """The processor's own name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
