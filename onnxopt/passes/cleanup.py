"""Cleanup by onnx_ir's own passes: one pass of ours that runs theirs and counts."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.passes.base import Context, PassResult


@dataclass(frozen=True, slots=True)
class CleanPass:
    """Removes what nothing reads, merges equal nodes and equal initializers, sorts the nodes."""

    name: str = "clean"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """See Pass.run."""
        from onnx_ir.passes import common

        steps: list[tuple[str, ir.passes.PassBase]] = [
            ("unused nodes and initializers", common.RemoveUnusedNodesPass()),
            ("equal initializers", common.DeduplicateInitializersPass()),
            ("equal nodes", common.CommonSubexpressionEliminationPass()),
            ("unused functions", common.RemoveUnusedFunctionsPass()),
            ("order of nodes", common.TopologicalSortPass()),
        ]
        hits: dict[str, int] = {}
        for label, step in steps:
            before = _size(model)
            if step(model).modified:
                hits[label] = max(1, before - _size(model))
        return PassResult(changed=bool(hits), hits=hits)


def _size(model: ir.Model) -> int:
    """Nodes, initializers and functions of the model, bodies included."""
    graphs = [model.graph, *model.graph.subgraphs()]
    return (
        sum(len(graph) + len(graph.initializers) for graph in graphs)
        + sum(len(function) for function in model.functions.values())
        + len(model.functions)
    )
