"""What comes before a product with a matrix, folded into the matrix and the bias."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import (
    FUSED,
    Affine,
    ends_fusion,
    folded,
    of_batch_norm,
    of_elementwise,
    per_channel,
)
from onnxopt.rewrite.dense import Dense


class FoldConstantIntoNextGemm(Rule):
    """Take a constant Mul, Div, Add or Sub into the weight and bias of the product that reads it.

    The constant must be one number, or one for each column of the left matrix. For a sum, a
    MatMul of two matrices becomes a Gemm; with more dims it takes factors only.
    """

    exactness = Exactness.CLOSE
    example = Example("y = MatMul(Mul(x, s), w)", "y = MatMul(x, w2)")

    def pattern(self, op, x: Value, w: Const, b: Value | None, c: Const):
        before = op.either(op.one_of("Add", "Sub", "Mul", "Div")(x, c), op.Sub(c, x))
        return op.one_of("Gemm", "MatMul")(before, w, b).named("dense")

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        node = hit.dense.input(0).producer
        hit.match(dense.rank and dense.takes(hit.c))
        hit.require(not ends_fusion(hit.x), FUSED)
        affine = of_elementwise(hit, node, hit.c, hit.x.rank, dense.input_axis, dense.inputs)
        return _before(op, hit, dense, affine, hit.c)


class FoldBatchNormIntoNextGemm(Rule):
    """Take a BatchNormalization into the weight and bias of the Gemm or MatMul that reads it."""

    exactness = Exactness.CLOSE
    example = Example("y = Gemm(BatchNormalization(x, s, t, m, v), w)", "y = Gemm(x, w2, b2)")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        norm = op.BatchNormalization(x, s, t, m, v).named("norm")
        return op.one_of("Gemm", "MatMul")(norm, w, b).named("dense")

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        hit.match(dense.is_flat and not hit.dense.attr("transA"))
        affine = of_batch_norm(hit, hit.norm, dense.inputs)
        return _before(op, hit, dense, affine, hit.t)


class FoldShiftIntoNextBias(Rule):
    """Move a constant sum before a MatMul into the sum that follows it."""

    exactness = Exactness.CLOSE
    example = Example("y = Add(MatMul(Add(x, c), w), b)", "y = Add(MatMul(x, w), b2)")

    def pattern(self, op, x: Value, w: Const, b: Const, c: Const):
        product = op.MatMul(op.one_of("Add", "Sub")(x, c).named("shift"), w).named("dense")
        return op.Add(product, b)

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        hit.match(hit.w.rank == 2 and dense.rank and dense.takes(hit.c))
        hit.require(not ends_fusion(hit.x), FUSED)
        rank = dense.rank
        shift = per_channel(hit.c, rank, rank - 1, dense.inputs)
        row = per_channel(hit.b, rank, rank - 1, dense.outputs)
        moved = dense.response(shift if hit.shift.op_type == "Add" else -shift)
        product = dense.rebuilt(op, hit, None, None, hit.w)
        return op.Add(product, folded(op, hit, row + moved, hit.b))


def _before(op: Any, hit: Any, dense: Dense, affine: Affine, like: Any) -> Any:
    bias = hit.b
    if affine.shift is not None and affine.shift.any():
        # Measured on onnxruntime's CPU provider: a Gemm spends as much on writing its bias to each
        # row as an Add of half its columns takes.
        cheap = hit.b is not None or dense.outputs <= 2 * dense.inputs
        hit.require(cheap, "a sum over the many columns of the product would take longer")
        earlier, moved = dense.bias(hit.b), dense.response(affine.shift)
        bias = moved if earlier is None else earlier + moved
    weight = None if affine.gain is None else dense.scale_inputs(affine)
    return dense.rebuilt(op, hit, weight, bias, hit.b or like)
