"""How the channels of a Conv or ConvTranspose lie in its weight, and what its padding is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.rewrite import forms
from onnxopt.rewrite.affine import Affine, Array, folded, require_own, wide_array
from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.hit import Hit, NodeView, Operand


@dataclass(frozen=True, slots=True)
class ConvWeight:
    """The constant weight of a Conv or ConvTranspose, of known shape.

    A Conv has [out, in / group, ...kernel], a ConvTranspose [in, out / group, ...kernel].
    """

    node: NodeView
    operand: Operand

    @property
    def rank(self) -> int:
        return self.operand.array.ndim

    @property
    def group(self) -> int:
        return int(self.node.attr("group", 1))

    @property
    def transposed(self) -> bool:
        return self.node.op_type == "ConvTranspose"

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        first, second = self.operand.array.shape[:2]
        return int(second * self.group if self.transposed else first)

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        first, second = self.operand.array.shape[:2]
        return int(first if self.transposed else second * self.group)

    def scale_outputs(self, affine: Affine) -> Array:
        """The weight with each output channel scaled; float64."""
        return self._scale(affine.gain, self.transposed)

    def scale_inputs(self, affine: Affine) -> Array:
        """The weight with each input channel scaled; float64."""
        return self._scale(affine.gain, not self.transposed)

    def response(self, shift: Array) -> Array:
        """What a constant input of one number per input channel adds to each output channel."""
        moved = self._scale(shift, not self.transposed)
        if self.transposed:
            moved = moved.reshape(self.group, -1, *moved.shape[1:]).swapaxes(1, 2)
            moved = moved.reshape(self.outputs, -1)
        total: Array = np.sum(moved.reshape(self.outputs, -1), axis=1)
        return total

    def _scale(self, gain: Array | None, second: bool) -> Array:
        wide = wide_array(self.operand.array)
        if gain is None:
            return wide
        ones = [1] * (wide.ndim - 2)
        if not second:
            gain = gain.reshape(-1, 1, *ones)
        else:
            each = gain.reshape(self.group, 1, -1)
            gain = np.repeat(each, wide.shape[0] // self.group, axis=1)
            gain = gain.reshape(*wide.shape[:2], *ones)
        return np.asarray(wide * gain)


def rebuilt(
    op: RewriteBuilder,
    hit: Hit,
    weight: Array,
    bias: Array | None,
    like: Operand,
    x: Any = None,
) -> Any:
    """The Conv or ConvTranspose of the hit (conv, x, w, b) with other numbers.

    `like` names a bias where there was none; `x` is what it reads instead of the hit's.
    """
    require_own(hit, hit.w)
    new_bias = None
    if bias is not None:
        new_bias = folded(op, hit, bias, hit.b or like, hit.w.dtype)
    new_weight = folded(op, hit, weight, hit.w)
    return op.node(hit.conv.op_type, [x or hit.x, new_weight, new_bias], like=hit.conv)


def is_unpadded(conv: NodeView, weight: ConvWeight) -> bool:
    """Whether a constant input gives a constant output: no element meets padding or a gap."""
    rank = weight.rank - 2
    pointwise = all(size == 1 for size in weight.operand.array.shape[2:])
    if conv.op_type == "ConvTranspose":
        plain = set(per_axis(conv, "strides", rank)) <= {1}
        fixed = conv.attr("output_shape") is None and not any(conv.attr("output_padding", [0]))
        return pointwise and plain and fixed and not any(pads_of(conv, rank))
    automatic = conv.attr("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return pointwise
    return automatic == "VALID" or not any(pads_of(conv, rank))


def keeps_shape(x: Operand, constant: Operand, weight: ConvWeight) -> bool:
    """Whether the convolution takes `x` as it takes `x` combined with the constant."""
    return x.rank == weight.rank and (constant.size == 1 or x.dim(1) == weight.inputs)


def with_bias(weight: ConvWeight, bias: Array | None, shift: Array | None) -> Array | None:
    """The bias once the input's shift per channel has gone through the weight."""
    if shift is None:
        return None if bias is None else wide_array(bias)
    moved = weight.response(shift)
    return moved if bias is None else wide_array(bias) + moved


def per_axis(conv: NodeView, name: str, rank: int) -> list[int]:
    """Strides or dilations for each of `rank` image axes: ones where they are left out."""
    return [int(step) for step in conv.attr(name) or [1] * rank]


def pads_of(conv: NodeView, rank: int) -> list[int]:
    """The written pads of a convolution or pool of `rank` image axes: first all before each."""
    return [int(pad) for pad in conv.attr("pads") or [0] * 2 * rank]


def padded_with(pad: NodeView) -> float | None:
    """What a Pad in constant mode fills in; None in another mode or where it is not known."""
    if pad.attr("mode", "constant") not in ("constant", b"constant"):
        return None
    operand = pad.input(2)
    return float(pad.attr("value", 0.0)) if operand is None else operand.scalar


def joined_pads(hit: Hit, node: NodeView, pad: NodeView) -> list[int]:
    """The pads of a convolution or pool together with those of the Pad before it.

    Raises Unmatched where the Pad crops or pads something else than image axes.
    """
    hit.match(node.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID"))
    before, after = forms.pads(pad)
    hit.match(len(before) > 2 and not any((*before[:2], *after[:2])))
    hit.match(all(size >= 0 for size in (*before, *after)))
    own = pads_of(node, len(before) - 2)
    return [mine + new for mine, new in zip(own, [*before[2:], *after[2:]], strict=True)]
