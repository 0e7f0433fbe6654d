"""Attention from the scaled dot product exporters write out."""

import math

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseAttention(Rule):
    """One Attention for Softmax(q · kᵀ · scale + mask) · v, on [batch, heads, length, size].

    The scale may stand on the product, or in equal parts on q and kᵀ; the mask is added and may be
    missing. A transpose of k that also swaps heads and length stays in front as a Transpose.
    Source: ONNX operator Attention-23; PyTorch's scaled_dot_product_attention in its exporters.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = MatMul(Softmax(Add(Mul(MatMul(q, Transpose(k)), scale), mask)), v)",
        "y = Attention(q, k, v, mask, scale=scale)",
    )
    opsets = (23, None)

    def pattern(self, op, q: Value, k: Value, v: Value, mask: Value, a: Const, b: Const, s: Const):
        left = op.either(op.Mul(q, a), op.Div(q, a).named("left_div"), q)
        turned = op.Transpose(k).named("turn")
        right = op.either(op.Mul(turned, b), op.Transpose(op.Mul(k, b)).named("turn"), turned)
        product = op.MatMul(left, right).named("product")
        scaled = op.either(op.Mul(product, s), op.Div(product, s).named("div"), product)
        masked = op.either(op.Add(scaled, mask), scaled)
        return op.MatMul(op.Softmax(masked).named("softmax"), v)

    def rewrite(self, op, hit):
        hit.match(hit.q.rank == 4 and hit.k.rank == 4 and hit.v.rank == 4)
        hit.match(hit.softmax.attr("axis") in (-1, 3))
        hit.match(hit.q.dtype is not None and hit.q.dtype.is_floating_point())
        scale = 1.0
        for operand, divides in (
            (hit.a, hit.left_div is not None),
            (hit.b, False),
            (hit.s, hit.div is not None),
        ):
            if operand is not None:
                number = operand.scalar
                hit.match(number and math.isfinite(number) and number > 0 and operand.rank <= 4)
                scale *= 1 / number if divides else number
        perm = list(hit.turn.attr("perm") or ())
        hit.match(perm in ([0, 1, 3, 2], [0, 2, 3, 1]))
        key = hit.k if perm == [0, 1, 3, 2] else op.Transpose(hit.k, perm=[0, 2, 1, 3])
        self._fits(hit, perm)
        return op.Attention(hit.q, key, hit.v, self._mask(hit), scale=scale)

    def _fits(self, hit, perm):
        """Batch and heads must be the same on all three: MatMul broadcasts, Attention does not."""
        heads = 1 if perm == [0, 1, 3, 2] else 2
        query, key, value = hit.q.shape, hit.k.shape, hit.v.shape
        hit.require(
            query[0] == key[0] == value[0] is not None
            and query[1] == key[heads] == value[1] is not None,
            "batch and heads of query, key and value can't be shown to be equal",
        )

    def _mask(self, hit):
        if hit.mask is None:
            return None
        product = hit.product.output.shape
        hit.match(hit.mask.rank in (2, 3, 4) and hit.mask.dtype == hit.q.dtype)
        hit.require(
            product is not None and hit.mask.shape[-2:] == product[-2:],
            "the mask is broadcast along the lengths",
        )
        return hit.mask
