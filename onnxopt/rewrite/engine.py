"""Applies rules to a model until none fires any more; the only place that edits for rules."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import OnnxoptError, RuleError
from onnxopt.rewrite import match
from onnxopt.rewrite.apply import Editor
from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.hit import OPSETS, Refused, Unmatched
from onnxopt.rewrite.journal import Journal
from onnxopt.rewrite.pattern import Pattern, trace
from onnxopt.rewrite.rule import Rule


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its traced pattern (several where exporters differ at the root)."""

    rule: Rule
    name: str
    patterns: tuple[Pattern, ...]

    @property
    def order(self) -> tuple[int, int, str]:
        """Larger patterns first, then by falling benefit, then by name."""
        return (-max(pattern.size for pattern in self.patterns), -self.rule.benefit, self.name)


def compile_rule(rule: Rule) -> CompiledRule:
    """Trace a rule's pattern. Raises RuleError, naming the rule, where that fails."""
    try:
        return CompiledRule(rule, rule.name, trace(rule.pattern))
    except OnnxoptError as error:
        raise RuleError(f"rule {rule.name}: {error.message}", hint=error.hint) from error
    except Exception as error:
        raise RuleError(f"rule {rule.name}: its pattern raised {error!r}") from error


RuleIndex = dict[str, list[tuple[CompiledRule, Pattern]]]


def index_rules(rules: Iterable[CompiledRule]) -> RuleIndex:
    """Rules and patterns by the op of their first root, each list in the order of trial."""
    index: RuleIndex = {}
    for compiled in sorted(rules, key=lambda item: item.order):
        for pattern in compiled.patterns:
            for op_type in pattern.roots[0].node.op_types:
                index.setdefault(op_type, []).append((compiled, pattern))
    return index


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: its journal, and the standing refusals as (rule, node, reason)."""

    journal: Journal
    refusals: tuple[tuple[str, str, str], ...]


def run(
    model: ir.Model,
    stages: Sequence[Sequence[CompiledRule]],
    *,
    skip: frozenset[tuple[str, str]] = frozenset(),
    enable: frozenset[str] = frozenset(),
) -> Outcome:
    """Give each stage of rules its turn, and bring the last to its fixed point; edits in place.

    `skip` holds (rule, site) pairs of the journal that must not fire again; `enable` names rules
    that run although they are off by themselves. Raises RuleError when
    rules keep undoing each other, or when a rule raises.
    """
    graphs = _graphs(model)
    editor = Editor(graphs, as_nodes=(model.ir_version or 4) < 4)
    engine = _Engine(editor, skip, enable, _cap(graphs))
    for stage in stages[:-1]:
        engine.sweep(index_rules(stage), graphs)
    for stage in stages[-1:]:
        engine.settle(index_rules(stage), graphs)
    engine.editor.sort()
    return Outcome(engine.editor.journal, tuple(sorted(engine.refusals.values())))


def _graphs(model: ir.Model) -> list[ir.Graph]:
    """Every graph that holds nodes; each is marked with the opsets that hold there."""
    found: list[ir.Graph] = []
    tops = [(model.graph, model.graph.opset_imports)]
    tops += [(function.graph, function.opset_imports) for function in model.functions.values()]
    while tops:
        graph, opsets = tops.pop(0)
        graph.meta[OPSETS] = opsets
        found.append(graph)
        for node in graph:
            if len(node.attributes):
                tops += [(body, opsets) for body in ops.subgraphs(node)]
    return found


def _cap(graphs: Sequence[ir.Graph]) -> int:
    return 1000 + 30 * sum(len(graph) for graph in graphs)


@dataclass(slots=True)
class _Engine:
    editor: Editor
    skip: frozenset[tuple[str, str]]
    enable: frozenset[str]
    cap: int
    refusals: dict[tuple[str, str], tuple[str, str, str]] = field(default_factory=dict)

    def settle(self, index: RuleIndex, graphs: Sequence[ir.Graph]) -> None:
        """Sweep over all nodes until a whole sweep changes nothing."""
        changed = True
        while changed:
            before = len(self.editor.journal)
            self.sweep(index, graphs)
            changed = len(self.editor.journal) > before

    def sweep(self, index: RuleIndex, graphs: Sequence[ir.Graph]) -> None:
        """Look at every node once, and again at what changes bring near."""
        self.refusals = {}
        for graph in graphs:
            self._sweep(index, graph)

    def _sweep(self, index: RuleIndex, graph: ir.Graph) -> None:
        # From the outputs on, the whole is met before its parts: LayerNormalization with its bias
        # before the same without.
        queue = deque(node for node in reversed(graph) if node.op_type in index)
        waiting = set(queue)
        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if node.graph is None:
                continue
            for neighbour in self._try(index, node):
                if neighbour.op_type in index and neighbour not in waiting:
                    waiting.add(neighbour)
                    queue.append(neighbour)

    def _try(self, index: RuleIndex, node: ir.Node) -> Iterable[ir.Node]:
        """Apply the first rule that fires at `node`; the nodes worth another look."""
        for compiled, pattern in index[node.op_type]:
            found = match.find(pattern, node)
            if found is None or not self._allowed(compiled, node):
                continue
            touched = self._rewrite(compiled, found)
            if touched is not None:
                return touched
        return ()

    def _allowed(self, compiled: CompiledRule, node: ir.Node) -> bool:
        site = node.outputs[0].name or ""
        if (compiled.name, site) in self.skip:
            return False
        first, last = compiled.rule.opsets
        opsets = self.editor.opsets(node)
        opset = opsets.get("", opsets.get("ai.onnx", 0))
        if last is not None and opset > last:
            return False
        reason = ""
        if opset < first:
            reason = f"it needs opset {first} (the model has {opset}); --opset {first} raises it"
        elif compiled.rule.off_because and compiled.name not in self.enable:
            reason = f"{compiled.rule.off_because}; --enable {compiled.name} turns it on"
        if reason:
            self.refusals[(compiled.name, site)] = (compiled.name, node.name or site, reason)
        return not reason

    def _rewrite(self, compiled: CompiledRule, found: match.Match) -> list[ir.Node] | None:
        node = found.root
        builder = RewriteBuilder(self.editor.opsets(node))
        try:
            result = compiled.rule.rewrite(builder, found.hit())
            touched = self.editor.apply(compiled.name, found, result)
        except Refused as refusal:
            key = (compiled.name, node.outputs[0].name or "")
            self.refusals[key] = (compiled.name, node.name or key[1], str(refusal))
            return None
        except Unmatched:
            return None
        except OnnxoptError as error:
            raise RuleError(f"rule {compiled.name}: {error.message}", hint=error.hint) from error
        except Exception as error:
            raise RuleError(
                f"rule {compiled.name} raised {type(error).__name__} at {node.name!r}: {error}",
                hint=f"leave it out with --disable {compiled.name}",
            ) from error
        if len(self.editor.journal) > self.cap:
            raise RuleError(_quarrel(self.editor.journal), hint="leave one out with --disable")
        return touched


def _quarrel(journal: Journal) -> str:
    recent = Counter(entry.rule for entry in journal.entries[-200:])
    names = " and ".join(name for name, _ in recent.most_common(2))
    return f"the rewrites never come to rest: {names} undo each other"
