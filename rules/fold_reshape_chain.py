"""Reshape, Flatten, Squeeze, Unsqueeze and idle Transpose after one another."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, dims, forms

_MOVERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


class FoldReshapeChain(Rule):
    """One operator for two in a row that only give elements another shape; none where they cancel.

    A Transpose counts where it moves nothing but axes of size one. The result is a Squeeze, an
    Unsqueeze or a Flatten where one does it, otherwise a Reshape to a constant shape.
    Needs: a final shape that a constant can say: every dynamic dim stays at its place, or there is
    one only.
    """

    exactness = Exactness.EXACT
    example = Example("y = Reshape(Squeeze(x), [2, 6])", "y = Reshape(x, [2, 6])")

    def pattern(self, op, x: Value, first: Values, second: Values):
        inner = op.one_of(*_MOVERS)(x, first).shared().named("inner")
        return op.one_of(*_MOVERS)(inner, second).named("outer")

    def rewrite(self, op, hit):
        result = hit.outer.output
        hit.match(not hit.inner.op_type == hit.outer.op_type == "Transpose")
        hit.match(_keeps_order(hit.inner) and _keeps_order(hit.outer))
        if dims.same_reshaped(hit.x, result):
            return hit.x
        hit.match(hit.inner.output.has_one_reader)
        axes = _joined(hit)
        if axes is not None:
            return forms.with_axes(op, hit.outer.op_type, hit.x, axes, like=hit.outer)
        return _directly(op, hit, result)


def _keeps_order(node) -> bool:
    if not node.is_op("Transpose"):
        return True
    rank = node.input(0).rank
    perm = node.attr("perm") or (None if rank is None else range(rank)[::-1])
    return perm is not None and dims.keeps_order(list(perm), node.input(0).shape)


def _directly(op, hit, result):
    """The one operator from x to the result."""
    away = dims.squeezed_axes(hit.x.shape, result.shape)
    if away is not None:
        return forms.with_axes(op, "Squeeze", hit.x, away)
    new = dims.squeezed_axes(result.shape, hit.x.shape)
    if new is not None:
        return forms.with_axes(op, "Unsqueeze", hit.x, new)
    first = hit.x.shape[0] if hit.x.rank and result.rank == 2 else None
    if first not in (None, 0) and first == result.shape[0]:
        return op.Flatten(hit.x)
    target = dims.reshape_target(hit.x.shape, result.shape, _open_dim(hit.outer))
    hit.match(target is not None)
    return op.Reshape(hit.x, op.ints(target))


def _open_dim(node) -> int | None:
    """Where a Reshape leaves one dim to the operator."""
    target = node.input(1).ints if node.is_op("Reshape") else None
    return target.index(-1) if target and -1 in target else None


def _joined(hit) -> list[int] | None:
    """The axes of one Squeeze (in what comes in) or Unsqueeze (in what goes out) for two."""
    if hit.inner.op_type != hit.outer.op_type or not hit.outer.is_op("Squeeze", "Unsqueeze"):
        return None
    inner, outer = hit.inner.axes(), hit.outer.axes()
    if inner is None or outer is None:
        return None
    middle = hit.inner.output.rank
    if hit.outer.is_op("Squeeze"):
        first, second = forms.normal_axes(inner, hit.x.rank), forms.normal_axes(outer, middle)
    else:
        first = forms.normal_axes(outer, hit.outer.output.rank)
        second = forms.normal_axes(inner, middle)
    axes = list(first)
    for axis in second:
        for taken in first:
            axis += taken <= axis
        axes.append(axis)
    return sorted(axes)
