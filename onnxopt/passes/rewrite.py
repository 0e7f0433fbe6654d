"""The one bridge from rules to passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.config import Exactness, Level
from onnxopt.passes.base import Context, PassResult, Refusal
from onnxopt.rewrite import engine
from onnxopt.rewrite.engine import CompiledRule


@dataclass(frozen=True, slots=True)
class RewritePass:
    """Applies rules to their fixed point, in stages: first what only drops, then fusions, then all.

    Fusions come before other rules can take their pieces apart. `skip` holds (rule, site)
    pairs of the journal that must not fire.
    """

    rules: tuple[CompiledRule, ...]
    name: str = "rewrite"
    skip: frozenset[tuple[str, str]] = frozenset()

    repeatable: ClassVar[bool] = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """See Pass.run; expects the facts that the fold pass leaves on the values."""
        rules = [rule for rule in self.rules if allowed(rule, context.options.level)]
        enabled = frozenset((*context.options.enable, *context.options.only))
        outcome = engine.run(model, _stages(rules), skip=self.skip, enable=enabled)
        hits = outcome.journal.hits
        fired = [compiled.rule.exactness for compiled in rules if compiled.name in hits]
        return PassResult(
            changed=bool(hits),
            hits=hits,
            refusals=tuple(Refusal(*refusal) for refusal in outcome.refusals),
            exactness=max(fired, default=Exactness.EXACT),
        )


def allowed(compiled: CompiledRule, level: Level) -> bool:
    """Whether a level lets the rule run; lossy rules need a command of their own."""
    limit = {Level.CLEAN: -1, Level.EXACT: Exactness.EXACT, Level.CLOSE: Exactness.CLOSE}[level]
    return compiled.rule.exactness <= limit


def _stages(rules: Iterable[CompiledRule]) -> list[list[CompiledRule]]:
    everything = list(rules)
    drops = [rule for rule in everything if rule.rule.kind == "drop"]
    fusions = [rule for rule in everything if rule.rule.kind == "fuse"]
    return [stage for stage in (drops, fusions, everything) if stage]
