"""Gathers of Gathers, and the axis that an Unsqueeze or Squeeze adds or takes behind one."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values, dims, forms


class FoldGatherChain(Rule):
    """One Gather for two in a row along the same axis.

    Needs: constant indices, the first a list, the second within it.
    """

    exactness = Exactness.EXACT
    example = Example("y = Gather(Gather(x, [4, 2, 7]), [2, 0])", "y = Gather(x, [7, 4])")

    def pattern(self, op, x: Value, first: Const, second: Const):
        return op.Gather(op.Gather(x, first).named("inner"), second).named("outer")

    def rewrite(self, op, hit):
        axes = [node.attr("axis") for node in (hit.inner, hit.outer)]
        hit.match(hit.first.rank == 1 and axes[0] == axes[1])
        count = hit.first.size
        hit.match(all(-count <= index < count for index in hit.second.array.reshape(-1)))
        indices = hit.first.array[hit.second.array]
        return op.Gather(hit.x, op.const(indices, like=hit.first), like=hit.outer)


class FoldUnsqueezeIntoGather(Rule):
    """Gather with a list of one index for a single index and an Unsqueeze at its axis; and back.

    Needs: a constant index, and no other reader of the Gather. A dim on its way into the target of
    a Reshape stays as it is, because onnxruntime's reshape fusion looks for it.
    """

    exactness = Exactness.EXACT
    example = Example("y = Unsqueeze(Gather(x, 3, axis=1), [1])", "y = Gather(x, [3], axis=1)")

    def pattern(self, op, x: Value, index: Const, rest: Values):
        gather = op.Gather(x, index).named("gather")
        return op.one_of("Unsqueeze", "Squeeze", "Reshape")(gather, rest).named("outer")

    def rewrite(self, op, hit):
        hit.match(hit.index.size == 1 and hit.x.rank is not None and not _is_for_a_reshape(hit))
        axis = hit.gather.attr("axis") % hit.x.rank
        longer, shorter = hit.outer.output, hit.gather.output
        if hit.index.rank == 1:
            longer, shorter = shorter, longer
        hit.match(longer.rank == hit.x.rank and shorter.rank == hit.x.rank - 1)
        moved = hit.outer.axes() if hit.outer.is_op("Squeeze", "Unsqueeze") else None
        if moved is None:
            moved = dims.squeezed_axes(longer.shape, shorter.shape)
        hit.match(moved is not None and forms.normal_axes(moved, longer.rank) == [axis])
        shape = [] if hit.index.rank == 1 else [1]
        index = op.const(hit.index.array.reshape(shape), like=hit.index)
        return op.Gather(hit.x, index, like=hit.gather)


def _is_for_a_reshape(hit) -> bool:
    shape = hit.x.producer
    if shape is None or not shape.is_op("Shape"):
        return False
    lists = [reader for reader in hit.outer.output.readers if reader.is_op("Concat")]
    return any(reader.is_op("Reshape") for each in lists for reader in each.output.readers)
