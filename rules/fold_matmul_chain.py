"""Products with one constant matrix after the other, as a product with one."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import folded, per_channel, require_own
from onnxopt.rewrite.dense import FLOATS, Dense


class FoldMatmulChain(Rule):
    """Multiply two constant matrices once and for all, where the product is no larger than both.

    Either may be a MatMul or a Gemm with constant bias.
    """

    exactness = Exactness.CLOSE
    example = Example("y = MatMul(MatMul(x, w1), w2)", "y = MatMul(x, w)")

    def pattern(self, op, x: Value, w: Const, b: Const | None, u: Const, c: Const | None):
        product = op.one_of("Gemm", "MatMul")
        return product(product(x, w, b).named("first"), u, c)

    def rewrite(self, op, hit):
        first, second = _both(hit)
        weight = folded(op, hit, first.matrix @ second.matrix, hit.w)
        bias = second.bias(hit.c)
        if hit.b is not None:
            row = per_channel(hit.b, 2, 1, first.outputs)
            moved = second.response(row * float(hit.first.attr("beta", 1.0)))
            bias = moved if bias is None else bias + moved
        if bias is None:
            return op.MatMul(hit.x, weight)
        return op.Gemm(hit.x, weight, folded(op, hit, bias, hit.c or hit.b))


class FoldMatmulChainThroughSum(Rule):
    """Multiply two constant matrices once and for all, and the row that is added between them."""

    exactness = Exactness.CLOSE
    example = Example("y = MatMul(Add(MatMul(x, w1), b), w2)", "y = Add(MatMul(x, w), b2)")

    def pattern(self, op, x: Value, w: Const, b: Const, u: Const):
        return op.MatMul(op.Add(op.MatMul(x, w).named("first"), b).named("sum"), u)

    def rewrite(self, op, hit):
        first, second = _both(hit)
        rank = first.rank
        row = per_channel(hit.b, rank, rank - 1, first.outputs)
        weight = folded(op, hit, first.matrix @ second.matrix, hit.w)
        product = op.MatMul(hit.x, weight, like=hit.first)
        return op.Add(product, folded(op, hit, second.response(row), hit.b), like=hit.sum)


def _both(hit: Any) -> tuple[Dense, Dense]:
    """Both products; refuses where one matrix in place of the two would be larger."""
    first = Dense(hit.first, hit.x, hit.w)
    second = Dense(hit.root, hit.root.input(0), hit.u)
    hit.match(hit.w.rank == 2 and hit.u.rank == 2 and hit.w.dtype in FLOATS and hit.x.rank)
    hit.match(hit.first.input(1) == hit.w and hit.root.input(1) == hit.u)
    hit.match(not hit.first.attr("transA") and not hit.root.attr("transA"))
    size = first.inputs * second.outputs
    hit.require(size <= hit.w.size + hit.u.size, "one matrix would be larger than the two are")
    require_own(hit, hit.w)
    require_own(hit, hit.u)
    return first, second
