"""Slices of one element whose axis goes."""

from math import prod

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, dims, forms

_FEW = 128
_LONG = 32


class FoldSqueezeIntoSlice(Rule):
    """Gather one element instead of slicing it out and squeezing its axis.

    Needs: a Slice along one axis only, by constants, of one element for sure. Measured on
    onnxruntime's CPU provider, the Gather is faster where it copies few pieces or long ones; in
    many short pieces it takes up to twice as long.
    """

    exactness = Exactness.EXACT
    example = Example("y = Squeeze(Slice(x, [2], [3], axes=[0]), [0])", "y = Gather(x, 2)")

    def pattern(self, op, x: Value, bounds: Values, rest: Values):
        inner = op.Slice(x, bounds).named("slice")
        return op.one_of("Squeeze", "Reshape")(inner, rest).named("outer")

    def rewrite(self, op, hit):
        parts = forms.parts(hit.slice)
        hit.match(len(parts) == 1)
        index = _index(parts[0], hit.x.dim(parts[0].axis))
        hit.match(index is not None and (index >= 0 or op.opset >= 11))
        axes = hit.outer.axes() if hit.outer.is_op("Squeeze") else None
        if axes is None:
            axes = dims.squeezed_axes(hit.slice.output.shape, hit.outer.output.shape)
        hit.match(axes is not None and forms.normal_axes(axes, hit.x.rank) == [parts[0].axis])
        quick = _few_or_long_pieces(hit.x.shape or (), parts[0].axis)
        hit.require(quick, "a Gather of so many short pieces is slower")
        return op.Gather(hit.x, op.const(index), axis=parts[0].axis)


def _few_or_long_pieces(shape, axis: int) -> bool:
    before, after = shape[:axis], shape[axis + 1 :]
    few = all(isinstance(dim, int) for dim in before) and prod(before) <= _FEW
    return few or prod(dim for dim in after if isinstance(dim, int)) >= _LONG


def _index(part, size: int | None) -> int | None:
    """The one element that the part takes, if it is one for sure (or none, which fails anyway)."""
    if size is not None:
        taken = range(size)[slice(part.start, part.end, part.step)]
        return taken[0] if len(taken) == 1 else None
    last = part.start == -1 and part.end >= forms.END
    one = part.step == 1 and (last or part.end == part.start + 1 != 0)
    return part.start if one else None
