"""Sums of products of one tensor with several constant matrices, as one product."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import Array, folded, require_own, wide_array
from onnxopt.rewrite.dense import FLOATS


class FoldMatmulSum(Rule):
    """Add constant matrices once and for all instead of the products with them.

    One of the two may be a product of two matrices, as a low-rank adapter (LoRA) that was not
    merged before export; the first may have a bias. Source: Hu et al., LoRA, 2021, section 4.1.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(MatMul(x, w), MatMul(MatMul(x, a), b))", "y = MatMul(x, w + a b)")

    def pattern(self, op, x: Value, w: Const, c: Const, a: Const, b: Const):
        base = op.MatMul(x, w).named("base")
        whole = op.either(op.Add(base, c).named("sum"), base)
        low = op.MatMul(x, a).named("low")
        return op.Add(whole, op.either(op.MatMul(low, b).named("high"), low))

    def rewrite(self, op, hit):
        first = [(hit.base, hit.w), (hit.low, hit.a), (hit.high, hit.b)]
        present = [(node, matrix) for node, matrix in first if node is not None]
        hit.match(all(node.input(1) == matrix for node, matrix in present))
        hit.match(all(matrix.rank == 2 for _, matrix in present) and hit.w.dtype in FLOATS)
        added = _added(hit)
        hit.match(added.shape == hit.w.array.shape)
        require_own(hit, hit.w)
        weight = folded(op, hit, wide_array(hit.w.array) + added, hit.w)
        product = op.MatMul(hit.x, weight, like=hit.base)
        return product if hit.sum is None else op.Add(product, hit.c, like=hit.sum)


def _added(hit: Any) -> Array:
    """The matrix that the second summand multiplies with."""
    low = wide_array(hit.a.array)
    if hit.high is None:
        return low
    hit.match(low.shape[1] == hit.b.array.shape[0])
    product: Array = low @ wide_array(hit.b.array)
    return product
