"""Channels through If, Loop and Scan: bodies are walked like the graph around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.walk import Walk, named
from onnxopt.rewrite.flows import Layout
from onnxopt.rewrite.hit import Unmatched

Visit = Callable[[Walk, ir.Node], None]


def visit_bodies(found: Walk, node: ir.Node, visit: Visit) -> bool:
    """Walk the bodies of a node and tie its outputs to theirs; False for other operators."""
    if ops.is_standard(node, "If"):
        return _branches(found, node, visit)
    if ops.is_standard(node, "Loop") and "body" in node.attributes:
        body = node.attributes["body"].as_graph()
        return _rounds(found, node, body, list(node.inputs[2:]), (2, 1), visit)
    if ops.is_standard(node, "Scan") and "body" in node.attributes:
        body = node.attributes["body"].as_graph()
        scanned = node.attributes["num_scan_inputs"].as_int()
        carried = list(node.inputs[: len(node.inputs) - scanned])
        for value in node.inputs[len(carried) :]:
            _keep(found, [value], f"{named(node)} goes through them")
        return _rounds(found, node, body, carried, (0, 0), visit)
    return False


def _branches(found: Walk, node: ir.Node, visit: Visit) -> bool:
    bodies = ops.subgraphs(node)
    for body in bodies:
        for inner in body:
            visit(found, inner)
    for index, value in enumerate(node.outputs):
        ends = [body.outputs[index] for body in bodies]
        why = f"the branches of {named(node)} give axes that differ"
        layouts = _all_of(found, ends[0])
        others = [_all_of(found, end) for end in ends[1:]]
        if layouts is None or any(o is None or len(o) != len(layouts) for o in others):
            _keep(found, ends, why)
            continue
        for other in others:
            for one, two in zip(layouts, other or (), strict=True):
                found.tokens.equal(one, two, why)
        found.layouts[value] = dict(enumerate(layouts))
    return True


def _rounds(
    found: Walk,
    node: ir.Node,
    body: ir.Graph,
    carried: Sequence[ir.Value | None],
    first: tuple[int, int],
    visit: Visit,
) -> bool:
    """Walk a body that runs again and again; `first` are its first carried input and output."""
    why = f"{named(node)} does not keep their axis as it is from round to round"
    starts = [None if value is None else _all_of(found, value) for value in carried]
    for value, layouts in zip(body.inputs[first[0] :], starts, strict=False):
        if layouts is not None:
            found.layouts[value] = dict(enumerate(layouts))
    for inner in body:
        visit(found, inner)
    ends = body.outputs[first[1] :]
    for index, (value, end) in enumerate(zip(node.outputs, ends, strict=False)):
        before = starts[index] if index < len(starts) else None
        after = _all_of(found, end)
        if index >= len(starts):
            # One more axis, for the rounds.
            _keep(found, [end], f"{named(node)} collects them")
        elif before is None or after is None or len(before) != len(after):
            _keep(found, [carried[index], end], why)
        else:
            for one, two in zip(before, after, strict=True):
                found.tokens.equal(one, two, why)
            found.layouts[value] = dict(enumerate(before))
    return True


def _all_of(found: Walk, value: ir.Value) -> list[Layout] | None:
    try:
        return [found.layout(value, axis) for axis in range(len(found.sizes(value)))]
    except Unmatched:
        return None


def _keep(found: Walk, values: Iterable[ir.Value | None], why: str) -> None:
    for value in values:
        for layout in found.layouts.get(value, {}).values() if value is not None else ():
            found.tokens.freeze(layout, why)
