"""Two convolutions with nothing in between, one of them pointwise, as one."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import Array, folded, require_own, wide_array
from onnxopt.rewrite.convolution import ConvWeight, is_unpadded, pads_of, per_axis


class FoldConvChain(Rule):
    """Multiply the kernels of two convolutions once and for all, where that does not grow.

    One of them must be pointwise with a stride of one, and both without groups. A bias between
    them needs a second convolution that does not pad. Source: linear over-parameterization.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Conv(Conv(x, w1), w2)", "y = Conv(x, w)")

    def pattern(self, op, x: Value, w: Const, b: Const | None, u: Const, c: Const | None):
        first = op.Conv(x, w, b, group=1).named("first")
        return op.Conv(first, u, c, group=1).named("second")

    def rewrite(self, op, hit):
        pointwise = _is_pointwise(hit.second, hit.u)
        hit.match(pointwise or _is_pointwise(hit.first, hit.w))
        kernel = hit.w.array.shape[2:] if pointwise else hit.u.array.shape[2:]
        hit.match(len(kernel) == hit.u.array.ndim - 2)
        size = hit.u.array.shape[0] * hit.w.array.shape[1] * int(np.prod(kernel))
        hit.match(size <= hit.w.size + hit.u.size)
        require_own(hit, hit.w)
        require_own(hit, hit.u)
        weight = folded(op, hit, _product(hit.w.array, hit.u.array), hit.w)
        bias = _bias(hit)
        new = None if bias is None else folded(op, hit, bias, hit.c or hit.b, hit.w.dtype)
        kept = hit.first if pointwise else hit.second
        return op.Conv(hit.x, weight, new, like=kept, kernel_shape=list(kernel))


def _is_pointwise(conv: Any, weight: Any) -> bool:
    """Whether the convolution does the same to each pixel, and to each of them."""
    plain = all(size == 1 for size in weight.array.shape[2:])
    image = weight.array.ndim - 2
    return plain and set(per_axis(conv, "strides", image)) == {1} and not any(pads_of(conv, image))


def _product(first: Array, second: Array) -> Array:
    """The kernel of both; one of the two has a single element a pair of channels."""
    left = wide_array(first).reshape(*first.shape[:2], -1)
    right = wide_array(second).reshape(*second.shape[:2], -1)
    product = np.einsum("omk,mcl->ockl", right, left)
    kernel = first.shape[2:] if right.shape[2] == 1 else second.shape[2:]
    return np.asarray(product.reshape(second.shape[0], first.shape[1], *kernel))


def _bias(hit: Any) -> Array | None:
    """The bias of both; refuses where the second convolution pads what the first one shifts."""
    own = None if hit.c is None else wide_array(hit.c.array)
    if hit.b is None or not hit.b.array.any():
        return own
    weight = ConvWeight(hit.second, hit.u)
    hit.require(
        is_unpadded(hit.second, weight), "the second convolution pads what the first one shifts"
    )
    moved = weight.response(wide_array(hit.b.array))
    return moved if own is None else own + moved
