"""What a pass is: a frozen dataclass whose fields are its options, with one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import onnx_ir as ir

from onnxopt.config import Exactness, Options


@dataclass(frozen=True, slots=True)
class Refusal:
    """A place where a rule or pass looked closely and did not apply.

    `subject` is the rule or pass, `node` the name of the node it stopped at, `reason` a sentence
    that tells the user why (and, where possible, what would change it).
    """

    subject: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What every pass may read besides the model.

    `input_bytes` is the size of the model as it came (weights included), the base of growth
    budgets.
    """

    options: Options = field(default_factory=Options)
    input_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did: `hits` by rule or kind, and the weakest `exactness` that fired."""

    changed: bool
    hits: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    exactness: Exactness = Exactness.EXACT
    notes: tuple[str, ...] = ()


Verdict = Literal["kept", "undone", "skipped"]


@dataclass(frozen=True, slots=True)
class Step:
    """One pass as it went: what it did, and whether that was kept.

    `verdict` is "undone" where the step broke a promise and was taken back, "skipped" where it was
    not run; `reason` says why for both and is empty for "kept".
    """

    name: str
    changed: bool
    hits: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    verdict: Verdict = "kept"
    reason: str = ""
    seconds: float = 0.0


@runtime_checkable
class Pass(Protocol):
    """One step of a pipeline. `run` edits the model in place; the manager owns clone and rollback.

    Two attributes are optional: `repeatable` (it gives the same result every time, so that the
    manager may run it again instead of copying the model before it) and `on_declared` (it wants
    the model's own annotations on the values, as a file has them, and not inferred facts).
    """

    @property
    def name(self) -> str: ...

    def run(self, model: ir.Model, context: Context) -> PassResult: ...
