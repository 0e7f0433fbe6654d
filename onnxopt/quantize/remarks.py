"""What the weight methods leave out of a plan, and what would change it, in words for the user."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.correction import uncorrected
from onnxopt.quantize.records import Grid, QuantPlan
from onnxopt.quantize.workshop import Workshop

APART = 1.25
"""From so much on a grid is told of; other samples of the same kind differ by less, mostly."""


def left_out(shop: Workshop, plan: QuantPlan) -> tuple[str, ...]:
    """Remarks on the products of a plan that bias correction or smoothing can do nothing for."""
    notes = []
    if "bias" in shop.methods and (names := uncorrected(shop.model, plan, shop.specs)):
        notes.append(
            f"bias correction leaves out {_products(len(names))} ({names[0]} the first): no"
            " constant row is added behind, and it would take a node more; add zeros there to have"
            " it corrected"
        )
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    count = sum(node.name in chosen and _reads_norm(node) for node in shop.model.graph)
    if "smoothing" in shop.methods and count:
        notes.append(
            f"LayerNormalizations feed {_products(count)}; channels that reach far there leave the"
            " others few codes: --mode dynamic smooths that, static does not"
        )
    return tuple(notes)


def other_grids(shop: Workshop, plan: QuantPlan) -> tuple[str, ...]:
    """A remark where the grids of a plan are not those that the data at hand asks for.

    They belong to the data that the plan was made with, and to its channels centred on that.
    """
    asked = shop.plan().grids
    apart = {name: _apart(plan.grids[name], asked[name]) for name in plan.grids if name in asked}
    many = [name for name, times in apart.items() if times > APART]
    if not many:
        return ()
    worst = max(many, key=lambda name: apart[name])
    return (
        f"{len(many)} of {len(plan.grids)} grids of the plan are not what this data asks for"
        f" ({worst} most: {apart[worst]:.1f} times as wide or as narrow, or moved by as much). They"
        " were made with other data or edited: give that data again, or make the plan anew with"
        " --plan-only",
    )


def _apart(one: Grid, other: Grid) -> float:
    """How often the narrower grid fits into what both reach together; 1 for the same."""
    left, right = one.reach, other.reach
    return (left | right).span / min(left.span, right.span)


def _reads_norm(node: ir.Node) -> bool:
    if not ops.is_standard(node, "Gemm", "MatMul") or node.inputs[0] is None:
        return False
    maker = node.inputs[0].producer()
    return maker is not None and ops.is_standard(maker, "LayerNormalization")


def _products(count: int) -> str:
    return "1 product" if count == 1 else f"{count} products"
