"""Constant folding: what is known before the model runs is computed once, here.

One round infers shapes, computes what is constant, takes computed shapes off the operators that
read them, and inlines branches that are always taken. A round that could have opened more is
followed by another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxopt import ops
from onnxopt.config import Exactness
from onnxopt.passes import shapes
from onnxopt.passes.base import Context, PassResult, Refusal
from onnxopt.passes.fold_evaluate import Evaluation, Tensors
from onnxopt.passes.fold_place import Placer, release, sweep
from onnxopt.passes.fold_plan import Budget, Constants, Plan, foldable, human, in_order, make_plan
from onnxopt.passes.fold_symbolic import simplify
from onnxopt.passes.fold_twins import merge_twins
from onnxopt.passes.inline import Inliner, taken_branch
from onnxopt.passes.propagate import Facts, roots, within
from onnxopt.passes.refute import forced_branches

MOST_ROUNDS = 12
LEAST_BUDGET = 1024
"""Bytes that folding may add to however small a model."""

GROWN = "onnxopt.grown"
"""Where a model keeps how many bytes folding has added to it so far."""


@dataclass(frozen=True, slots=True)
class FoldPass:
    """Computes what is constant, within the growth budget of the options."""

    @property
    def name(self) -> str:
        return "fold"

    repeatable: ClassVar[bool] = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Fold in place until nothing is left to fold."""
        shapes.remember(model)
        frozen = freeze_inputs(model) if context.options.freeze_inputs else 0
        run = _Run(model, context)
        for _ in range(MOST_ROUNDS):
            if not run.round():
                break
        hits = +(run.hits + Counter({"frozen input": frozen}))
        return PassResult(
            changed=bool(hits),
            hits={kind: hits[kind] for kind in sorted(hits)},
            refusals=tuple(run.refusals.values()),
            exactness=run.exactness,
            notes=_what_freezing_brings(model, run.facts),
        )


def freeze_inputs(model: ir.Model) -> int:
    """Take initializers off the inputs, so that no caller may override them; gives their number.

    Below IR version 4 they are constants anyway, and stay listed.
    """
    ops.mark_constants(model)
    inputs = model.graph.inputs
    overridable = [v for v in inputs if v.is_initializer() and not ops.is_constant(v)]
    for value in overridable:
        inputs.remove(value)
    return len(overridable)


@dataclass(slots=True)
class _Run:
    """The rounds over one model."""

    model: ir.Model
    context: Context
    hits: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    exactness: Exactness = Exactness.EXACT
    failed: set[ir.Node] = field(default_factory=set)
    failures: dict[str, Refusal] = field(default_factory=dict)

    def round(self) -> bool:
        """One round; gives whether another could find more."""
        self.facts = shapes.facts_of(self.model)
        self.refusals.clear()
        inlined = [self._inline(scope) for scope in roots(self.model)]
        if any(inlined):
            # Branches that are never taken must not count as readers of what is folded.
            return True
        grown = int(self.model.graph.meta.get(GROWN, 0))
        budget = Budget(self._allowance() - grown)
        left = budget.left
        again = False
        for scope in roots(self.model):
            again |= self._compute(scope, budget)
            self._simplify(scope)
            self._merge(scope)
        self.model.graph.meta[GROWN] = grown + left - budget.left
        return again

    def _allowance(self) -> int:
        share = self.context.options.max_growth
        return max(int(share * self.context.input_bytes), LEAST_BUDGET if share > 0 else 0)

    def _compute(self, scope: ir.Graph | ir.Function, budget: Budget) -> bool:
        """Compute what is constant; gives whether something came out that shapes may depend on."""
        placer = Placer(self.model)
        plan = make_plan(scope, self.facts, budget, placer, self.failed)
        evaluation = Evaluation(self.facts, _opsets(scope, self.model), self.model.ir_version or 8)
        evaluation.run(plan.groups)
        self.failures.update((refusal.node, refusal) for refusal in evaluation.refusals)
        for refusal in (*plan.refusals, *self.failures.values()):
            self.refusals[refusal.node] = refusal
        # Without the nodes that failed, what they were to be computed from can still be folded.
        again = bool(evaluation.failed) or any(map(_tells_of_shapes, evaluation.by_runtime))
        self._place(plan, evaluation.tensors, placer)
        self.failed |= evaluation.failed
        return again

    def _place(self, plan: Plan, tensors: Tensors, placer: Placer) -> None:
        for value in (value for group in plan.groups for value in group.results):
            tensor, graph = tensors.get(value), value.graph
            if tensor is None or graph is None or not placer.has_room(graph, tensor.dtype):
                continue
            placer.replace(value, tensor)
            if tensor.dtype.is_floating_point():
                # The number is the same to the bit, but a constant operand lets onnxruntime take
                # a packed kernel that adds in another order.
                self.exactness = Exactness.CLOSE
        nodes = [node for group in plan.groups for node in group.nodes]
        self._sweep(nodes)

    def _simplify(self, scope: ir.Graph | ir.Function) -> None:
        placer = Placer(self.model)
        opset = _opsets(scope, self.model).get("", 1)
        for node in list(in_order(scope)):
            read = tuple(node.inputs)
            if simplify(node, self.facts, opset, placer):
                self.hits[f"{node.op_type} of known shape"] += 1
                sweep([node])
                release(read)

    def _merge(self, scope: ir.Graph | ir.Function) -> None:
        freed = merge_twins(scope, self.facts)
        self.hits["equal shapes merged"] += len(freed)
        sweep(freed)

    def _inline(self, scope: ir.Graph | ir.Function) -> bool:
        inliner: Inliner | None = None
        forced = self._forced(scope)
        for node in list(in_order(scope)):
            branch = forced.get(node) or taken_branch(node, self.facts)
            if branch is None:
                continue
            inliner = inliner or Inliner(self.model)
            read = tuple(node.inputs)
            inliner.inline(node, branch)
            release(read)
            self.hits["If inlined"] += 1
        return inliner is not None

    def _forced(self, scope: ir.Graph | ir.Function) -> dict[ir.Node, ir.Graph]:
        opset = _opsets(scope, self.model).get("", 1)
        return {
            node: node.attributes[branch].as_graph()
            for graph in within(scope)
            for node, branch in forced_branches(graph, self.facts, opset).items()
        }

    def _sweep(self, nodes: list[ir.Node]) -> None:
        """Remove folded nodes and count those that went."""
        sweep(reversed(nodes))
        self.hits.update(node.op_type for node in nodes if node.graph is None)


def _tells_of_shapes(value: ir.Value) -> bool:
    """Whether the shape of another tensor may depend on the value."""
    if value.dtype is None or not value.dtype.is_floating_point():
        return True
    return any(user.op_type in ("Range", "Resize", "Upsample") for user, _ in value.uses())


def _opsets(scope: ir.Graph | ir.Function, model: ir.Model) -> dict[str, int]:
    return dict(scope.opset_imports or model.opset_imports)


def _what_freezing_brings(model: ir.Model, facts: Facts) -> tuple[str, ...]:
    weights = [v for v in model.graph.inputs if v.is_initializer() and not ops.is_constant(v)]
    if not weights:
        return ()
    size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    now = foldable(in_order(model.graph), Constants(facts))
    then = foldable(in_order(model.graph), Constants(facts, frozenset(weights)))
    return (
        f"{len(weights)} initializers ({human(size)}) are also inputs, so a caller may override"
        f" them and they are left alone; with --freeze-inputs they are constants: rules may rewrite"
        f" them, and {len(then) - len(now)} more nodes fold",
    )
