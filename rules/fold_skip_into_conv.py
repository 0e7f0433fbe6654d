"""A convolution that adds its own input, as a convolution alone."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import Affine, of_batch_norm, wide_array
from onnxopt.rewrite.convolution import ConvWeight, pads_of, per_axis, rebuilt


class FoldSkipIntoConv(Rule):
    """Let a convolution add its own input, as it is or through a BatchNormalization.

    Needs as many channels out as in, a stride of one, and pads that keep the size. The input
    becomes a one in the kernel's middle. Source: Ding et al., RepVGG, 2021, section 3.3.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(Conv(x, w, pads=[1, 1]), x)", "y = Conv(x, w2, pads=[1, 1])")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        conv = op.Conv(x, w, b).named("conv")
        norm = op.BatchNormalization(x, s, t, m, v).named("norm")
        return op.either(op.Add(conv, norm), op.Add(conv, x))

    def rewrite(self, op, hit):
        weight = ConvWeight(hit.conv, hit.w)
        hit.match(weight.inputs == weight.outputs and hit.conv.output.same_shape(hit.x))
        middle = _middle(hit)
        affine = Affine()
        if hit.norm is not None:
            affine = of_batch_norm(hit, hit.norm, weight.inputs)
        shift = affine.of(np.zeros(weight.inputs))
        kernel = wide_array(hit.w.array)
        for channel, gain in enumerate(affine.of(np.ones(weight.inputs)) - shift):
            place = (channel, channel % kernel.shape[1], *middle)
            kernel[place] += gain
        bias = shift if hit.b is None else hit.b.array + shift
        needed = hit.b is not None or bias.any()
        return rebuilt(op, hit, kernel, bias if needed else None, hit.t or hit.w)


def _middle(hit: Any) -> list[int]:
    """Where in the kernel the element stands that is computed."""
    rank = hit.w.array.ndim - 2
    steps, pads = per_axis(hit.conv, "dilations", rank), pads_of(hit.conv, rank)
    hit.match(set(per_axis(hit.conv, "strides", rank)) == {1})
    hit.match(hit.conv.attr("auto_pad", "NOTSET") == "NOTSET")
    hit.match(all(pad % step == 0 for pad, step in zip(pads, steps * 2, strict=True)))
    return [pad // step for pad, step in zip(pads[:rank], steps, strict=True)]
