"""What is done to each channel before it is flattened, folded into the Gemm behind."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values
from onnxopt.rewrite.affine import Affine, of_batch_norm, of_elementwise
from onnxopt.rewrite.dense import Dense


class FoldBatchNormThroughFlatten(Rule):
    """Take a BatchNormalization before a Flatten or Reshape into the Gemm that reads the rows.

    Needs a Gemm, or a MatMul, of constant weight, and channels and image of known size.
    Source: the heads of ArcFace and InsightFace.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Gemm(Flatten(BatchNormalization(x, s, t, m, v)), w)", "y = Gemm(Flatten(x), w2, b2)"
    )

    def pattern(
        self, op, z: Value, w: Const, b: Const | None, s: Const, t: Const, m: Const, v: Const,
        how: Values,
    ):  # fmt: skip
        norm = op.BatchNormalization(z, s, t, m, v).named("norm")
        x = op.one_of("Flatten", "Reshape")(norm, how).named("flat")
        return op.one_of("Gemm", "MatMul")(x, w, b).named("dense")

    def rewrite(self, op, hit):
        copies = _copies(hit)
        affine = of_batch_norm(hit, hit.norm, hit.z.dim(1))
        return _folded(op, hit, affine, copies, hit.t)


class FoldConstantThroughFlatten(Rule):
    """Take a constant Mul, Div, Add or Sub before a Flatten or Reshape into the Gemm behind it."""

    exactness = Exactness.CLOSE
    example = Example("y = Gemm(Flatten(Mul(x, s)), w)", "y = Gemm(Flatten(x), w2)")

    def pattern(self, op, z: Value, w: Const, b: Const | None, c: Const, how: Values):
        before = op.either(op.one_of("Add", "Sub", "Mul", "Div")(z, c), op.Sub(c, z))
        x = op.one_of("Flatten", "Reshape")(before, how).named("flat")
        return op.one_of("Gemm", "MatMul")(x, w, b).named("dense")

    def rewrite(self, op, hit):
        copies = _copies(hit)
        node = hit.flat.input(0).producer
        affine = of_elementwise(hit, node, hit.c, hit.z.rank, 1, hit.z.dim(1))
        return _folded(op, hit, affine, copies, hit.c)


def _copies(hit: Any) -> int:
    """How many columns each channel takes up in the rows."""
    shape, flat = hit.z.shape, hit.flat.output
    hit.match(shape is not None and len(shape) > 1 and flat.rank == 2)
    hit.match(all(isinstance(dim, int) for dim in shape[1:]) and hit.flat.input(0).shape == shape)
    size = int(np.prod(shape[1:]))
    hit.match(flat.dim(1) == size and not hit.dense.attr("transA"))
    return int(size // shape[1])


def _folded(op: Any, hit: Any, affine: Affine, copies: int, like: Any) -> Any:
    rows = op.node(hit.flat.op_type, [hit.z, *hit.how], like=hit.flat)
    dense = Dense.of(hit, hit.flat.output)
    wide = affine.repeated(copies)
    bias = dense.bias(hit.b)
    if wide.shift is not None and wide.shift.any():
        moved = dense.response(wide.shift)
        bias = moved if bias is None else bias + moved
    return dense.rebuilt(op, hit, dense.scale_inputs(wide), bias, hit.b or like, rows)
