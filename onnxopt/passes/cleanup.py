"""Cleanup by onnx_ir's own passes: one pass of ours that runs theirs and counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.passes.base import Context, PassResult


@dataclass(frozen=True, slots=True)
class CleanPass:
    """Removes what nothing reads, merges equal nodes and equal initializers, sorts the nodes."""

    name: str = "clean"

    repeatable: ClassVar[bool] = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """See Pass.run."""
        from onnx_ir.passes import common

        logging.getLogger("onnx_ir").setLevel(logging.ERROR)
        steps: list[tuple[str, ir.passes.PassBase]] = [
            ("unused nodes and initializers", common.RemoveUnusedNodesPass()),
            ("equal initializers", common.DeduplicateInitializersPass()),
            ("equal nodes", common.CommonSubexpressionEliminationPass()),
            ("unused functions", common.RemoveUnusedFunctionsPass()),  # type: ignore[no-untyped-call]
            ("order of nodes", common.TopologicalSortPass()),
        ]
        hits: dict[str, int] = {}
        listed = _drop_unread_listings(model)
        if listed:
            hits["unused initializers listed as inputs"] = listed
        outputs = list(model.graph.outputs)
        for label, step in steps:
            before = _size(model)
            if step(model).modified:
                hits[label] = max(1, before - _size(model))
        _keep_what_outputs_say(outputs, model.graph.outputs)
        return PassResult(changed=bool(hits), hits=hits)


def _keep_what_outputs_say(before: Iterable[ir.Value], after: Iterable[ir.Value]) -> None:
    """Hand the notes of outputs on to the values that took their place."""
    for old, new in zip(before, after, strict=True):
        if old is not new:
            new.doc_string = new.doc_string or old.doc_string
            new.metadata_props.update(old.metadata_props)


def _drop_unread_listings(model: ir.Model) -> int:
    """Take initializers that nothing reads off the inputs where a caller can't override them.

    Below IR version 4 every initializer had to be listed as an input without being one.
    """
    if (model.ir_version or 4) >= 4:
        return 0
    unread = [
        value
        for value in model.graph.inputs
        if value.is_initializer() and not value.uses() and not value.is_graph_output()
    ]
    for value in unread:
        model.graph.inputs.remove(value)
        model.graph.initializers.pop(value.name or "")
    return len(unread)


def _size(model: ir.Model) -> int:
    """Nodes, initializers and functions of the model, bodies included."""
    graphs = [model.graph, *model.graph.subgraphs()]
    return (
        sum(len(graph) + len(graph.initializers) for graph in graphs)
        + sum(len(function) for function in model.functions.values())
        + len(model.functions)
    )
