"""What follows a product with a matrix, folded into the matrix and the bias."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import folded, of_batch_norm, of_elementwise, per_channel
from onnxopt.rewrite.dense import Dense


class FoldConstantIntoGemm(Rule):
    """Take a constant Add, Sub, Mul or Div after a Gemm or MatMul into its weight and bias.

    The constant must be one number, or one for each column. A MatMul of two matrices becomes a
    Gemm to hold a sum, as onnxruntime would make of it; with more dims it takes factors only.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(MatMul(x, w), t)", "y = Gemm(x, w, t)")

    def pattern(self, op, x: Value, w: Value, b: Const | None, c: Const):
        dense = op.one_of("Gemm", "MatMul")(x, w, b).named("dense")
        return op.either(op.one_of("Add", "Sub", "Mul", "Div")(dense, c), op.Sub(c, dense))

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        rank, columns = dense.rank, dense.outputs
        affine = of_elementwise(hit, hit.root, hit.c, rank, rank - 1, columns)
        bias = affine.after(dense.bias(hit.b))
        if affine.gain is None:
            return dense.rebuilt(op, hit, None, bias, hit.b or hit.c)
        hit.match(hit.w.is_const)
        return dense.rebuilt(op, hit, dense.scale_outputs(affine), bias, hit.b or hit.c)


class FoldBatchNormIntoGemm(Rule):
    """Scale the weight of a Gemm or MatMul by the normalization's gain; the rest is bias."""

    exactness = Exactness.CLOSE
    example = Example("y = BatchNormalization(Gemm(x, w), s, t, m, v)", "y = Gemm(x, w2, b2)")

    def pattern(
        self, op, x: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const
    ):
        dense = op.one_of("Gemm", "MatMul")(x, w, b).named("dense")
        return op.BatchNormalization(dense, s, t, m, v)

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        hit.match(dense.is_flat)
        affine = of_batch_norm(hit, hit.root, dense.outputs)
        bias = affine.after(dense.bias(hit.b))
        return dense.rebuilt(op, hit, dense.scale_outputs(affine), bias, hit.b or hit.t)


class FoldScaleThroughBias(Rule):
    """Take a constant Mul or Div after MatMul and Add into the matrix and the added row."""

    exactness = Exactness.CLOSE
    example = Example("y = Mul(Add(MatMul(x, w), b), s)", "y = Add(MatMul(x, w2), b2)")

    def pattern(self, op, x: Value, w: Const, b: Const, c: Const):
        total = op.Add(op.MatMul(x, w).named("dense"), b).named("sum")
        return op.one_of("Mul", "Div")(total, c)

    def rewrite(self, op, hit):
        dense = Dense.of(hit)
        rank, columns = dense.rank, dense.outputs
        affine = of_elementwise(hit, hit.root, hit.c, rank, rank - 1, columns)
        row = affine.of(per_channel(hit.b, rank, rank - 1, columns))
        scaled = dense.rebuilt(op, hit, dense.scale_outputs(affine), None, hit.w)
        return op.Add(scaled, folded(op, hit, row, hit.b), like=hit.sum)
