"""Reductions of reductions, and the axes that a Squeeze takes or an Unsqueeze adds behind one."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, dims, forms

_OF_PARTS_IS_OF_ALL = (
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum",
)  # fmt: skip
_ALL = (*_OF_PARTS_IS_OF_ALL, "ReduceLogSum", "ReduceSumSquare", "ArgMax", "ArgMin")


class FoldReduceChain(Rule):
    """One reduction for two of the same kind in a row.

    Needs: axes that are known, and both keep their axes or both drop them.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = ReduceMean(ReduceMean(x, axes=[3]), axes=[2])", "y = ReduceMean(x, axes=[2, 3])"
    )

    def pattern(self, op, x: Value, first: Values, second: Values):
        inner = op.one_of(*_OF_PARTS_IS_OF_ALL)(x, first).named("inner")
        return op.one_of(*_OF_PARTS_IS_OF_ALL)(inner, second).named("outer")

    def rewrite(self, op, hit):
        hit.match(hit.inner.op_type == hit.outer.op_type and hit.x.rank is not None)
        kept = bool(hit.inner.attr("keepdims"))
        hit.match(kept == bool(hit.outer.attr("keepdims")))
        axes = _axes(hit.inner, hit.x.rank)
        left = [axis for axis in range(hit.x.rank) if kept or axis not in axes]
        axes = sorted({*axes, *(left[axis] for axis in _axes(hit.outer, len(left)))})
        hit.match(axes)
        return forms.with_axes(op, hit.outer.op_type, hit.x, axes, keepdims=int(kept))


class FoldSqueezeIntoReduce(Rule):
    """Let a reduction drop or keep its axes itself instead of a Squeeze or Unsqueeze behind it.

    Needs: the Squeeze (or Reshape, Flatten) takes exactly the axes that the reduction went over,
    or the Unsqueeze puts them back; no other reader of the reduction.
    """

    exactness = Exactness.EXACT
    example = Example(
        "y = Squeeze(ReduceMean(x, axes=[2], keepdims=1), [2])",
        "y = ReduceMean(x, axes=[2], keepdims=0)",
    )

    def pattern(self, op, x: Value, axes: Values, rest: Values):
        inner = op.one_of(*_ALL)(x, axes).named("reduce")
        return op.one_of("Squeeze", "Unsqueeze", "Reshape", "Flatten")(inner, rest).named("outer")

    def rewrite(self, op, hit):
        hit.match(hit.x.rank is not None)
        axes, kept = _axes(hit.reduce, hit.x.rank), bool(hit.reduce.attr("keepdims"))
        longer, shorter = hit.reduce.output, hit.outer.output
        if not kept:
            longer, shorter = shorter, longer
        hit.match(longer.rank == hit.x.rank and shorter.rank == hit.x.rank - len(axes))
        moved = hit.outer.axes() if hit.outer.is_op("Squeeze", "Unsqueeze") else None
        if moved is None:
            moved = dims.squeezed_axes(longer.shape, shorter.shape)
        hit.match(moved is not None and forms.normal_axes(moved, longer.rank) == axes)
        inputs = hit.reduce.inputs
        return op.node(hit.reduce.op_type, inputs, like=hit.reduce, keepdims=int(not kept))


def _axes(node, rank: int) -> list[int]:
    """The axes that a reduction goes over, from the front."""
    if node.is_op("ArgMax", "ArgMin"):
        return [node.attr("axis") % rank]
    axes = node.axes()
    if not axes:
        return [] if node.attr("noop_with_empty_axes") else list(range(rank))
    return forms.normal_axes(axes, rank)
