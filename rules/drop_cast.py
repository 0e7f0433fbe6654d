"""Casts that change nothing, and Casts whose target hangs on another tensor."""

from typing import Any

import onnx_ir as ir

from onnxopt.rewrite import Attr, Exactness, Example, NodeView, Rule, Value


class DropCast(Rule):
    """Leave a Cast to the type out that its input has already."""

    exactness = Exactness.EXACT
    example = Example("y = Cast(x, to=float)  # x is float", "y = x")

    def pattern(self, op, x: Value, to: Attr):
        return op.Cast(x, to=to)

    def rewrite(self, op, hit):
        hit.match(hit.x.dtype == ir.DataType(hit.to))
        return hit.x


class DropCastLike(Rule):
    """Cast to the type that the second input is known to have; nothing where that is the same.

    torch's dynamo exporter casts its constants (a Conv bias of zeros, the bounds of a Clip) like
    the data; only after this are they constants. Source: ONNX operator CastLike-15.
    """

    exactness = Exactness.EXACT
    example = Example("y = CastLike(0.0, x)  # x is float", "y = 0.0")

    def pattern(self, op, x: Value, target: Value):
        return op.CastLike(x, target)

    def rewrite(self, op, hit):
        hit.match(hit.target.dtype is not None)
        if hit.x.dtype == hit.target.dtype:
            return hit.x
        return op.Cast(hit.x, to=hit.target.dtype, saturate=_saturate(hit.root))


def _saturate(node: NodeView) -> Any:
    return node.attr("saturate") if node.has("saturate") else None
