"""Gemm from a product of matrices, a sum, and transposed operands."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, dims
from onnxopt.rewrite.affine import Array, folded, is_dequantized, wide_array
from onnxopt.rewrite.dense import FLOATS


class FuseGemm(Rule):
    """One Gemm for a product of two matrices and a sum.

    Needs operands of rank 2 and a summand that broadcasts to the product. onnxruntime does the
    same to a MatMul and Add when it loads them, and has Gemm for floats only.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(MatMul(x, w), c)", "y = Gemm(x, w, c)")

    def pattern(self, op, x: Value, w: Value, c: Value):
        return op.Add(op.one_of("Gemm", "MatMul")(x, w).named("product"), c)

    def rewrite(self, op, hit):
        hit.match(hit.x.rank == 2 and hit.w.rank == 2 and hit.x.dtype in FLOATS)
        hit.match(not is_dequantized(hit.x, hit.w))
        hit.match(dims.stretches_to(hit.c, hit.product.output))
        return op.Gemm(hit.x, hit.w, hit.c, like=hit.product, beta=None)


class FuseGemmSum(Rule):
    """Let one Gemm add its product to that of another, with one bias for both.

    Source: the gates of a recurrent cell, written out.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(Gemm(x, w, b), Gemm(z, u, c))", "y = Gemm(x, w, Gemm(z, u, b + c))")

    def pattern(self, op, x: Value, w: Value, b: Const, z: Value, u: Value, c: Const):
        return op.Add(op.Gemm(x, w, b).named("left"), op.Gemm(z, u, c).named("right"))

    def rewrite(self, op, hit):
        hit.match(hit.left.output.same_shape(hit.right.output))
        bias = _bias(hit.left, hit.b) + _bias(hit.right, hit.c)
        hit.match(bias.size == max(hit.b.size, hit.c.size))
        inner = op.Gemm(hit.z, hit.u, folded(op, hit, bias, hit.c), like=hit.right, beta=None)
        return op.Gemm(hit.x, hit.w, inner, like=hit.left, beta=None)


class FuseTransposeIntoGemm(Rule):
    """Let a Gemm read a matrix transposed instead of transposing it first.

    A MatMul of two matrices becomes a Gemm for this.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Gemm(x, Transpose(w))", "y = Gemm(x, w, transB=1)")

    def pattern(self, op, x: Value, w: Value, c: Value | None):
        product = op.one_of("Gemm", "MatMul")
        return op.either(
            product(op.Transpose(x).named("left"), w, c),
            product(x, op.Transpose(w).named("right"), c),
        )

    def rewrite(self, op, hit):
        hit.match(hit.x.rank == 2 and hit.w.rank == 2 and hit.x.dtype in FLOATS)
        hit.match(not is_dequantized(hit.x, hit.w))
        # Before opset 11 a Gemm must have a summand.
        hit.match(hit.c is not None or op.opset >= 11)
        side, turned = ("transA", hit.left) if hit.left else ("transB", hit.right)
        hit.match(list(turned.attr("perm", [1, 0])) == [1, 0])
        now = 0 if hit.root.attr(side) else 1
        return op.Gemm(hit.x, hit.w, hit.c, like=hit.root, **{side: now})


def _bias(gemm: Any, bias: Any) -> Array:
    return wide_array(bias.array) * float(gemm.attr("beta", 1.0))
