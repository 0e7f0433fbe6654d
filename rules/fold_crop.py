"""A Slice behind a transposed convolution, as padding that it takes off."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms
from onnxopt.rewrite.convolution import pads_of, per_axis


class FoldCropIntoConvTranspose(Rule):
    """Let a ConvTranspose leave the border out that a Slice cuts off behind it.

    Needs a Slice of image axes in single steps, by known numbers of elements on either side.
    Source: the causal decoders of neural audio codecs.
    """

    exactness = Exactness.CLOSE
    example = Example("y = ConvTranspose(x, w)[:, :, 1:-1]", "y = ConvTranspose(x, w, pads=[1, 1])")

    def pattern(self, op, x: Value, w: Value, b: Value | None, how: Values):
        return op.Slice(op.ConvTranspose(x, w, b).named("conv"), how)

    def rewrite(self, op, hit):
        hit.match(hit.conv.attr("auto_pad", "NOTSET") == "NOTSET")
        hit.match(hit.conv.attr("output_shape") is None and hit.w.rank is not None)
        image = hit.w.rank - 2
        pads = pads_of(hit.conv, image)
        for part in forms.parts(hit.root):
            hit.match(part.axis >= 2 and part.step == 1)
            before, after = _cut(hit, part, hit.conv.output.dim(part.axis))
            pads[part.axis - 2] += before
            pads[part.axis - 2 + image] += after
        return op.ConvTranspose(hit.x, hit.w, hit.b, like=hit.conv, auto_pad=None, pads=pads)


def _cut(hit: Any, part: forms.Part, size: int | None) -> tuple[int, int]:
    """How many elements a Slice cuts off in front and behind; some must be left."""
    if size is not None:
        start, end, _ = slice(part.start, part.end).indices(size)
        hit.match(start < end)
        return start, size - end
    cut = part.start, 0 if part.end >= forms.END else -part.end
    hit.match(min(cut) >= 0 and sum(cut) < _smallest(hit, part.axis - 2))
    return cut


def _smallest(hit: Any, axis: int) -> int:
    """The size of the output along an image axis for an input of one element."""
    conv, kernel = hit.conv, hit.w.dim(axis + 2)
    hit.match(kernel is not None)
    image = hit.w.rank - 2
    step = per_axis(conv, "dilations", image)[axis]
    more = (conv.attr("output_padding") or [0] * image)[axis]
    return int((kernel - 1) * step + 1 + more - sum(pads_of(conv, image)[axis::image]))
