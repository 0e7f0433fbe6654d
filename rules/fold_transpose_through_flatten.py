"""A Transpose before a flattening, folded into the rows of the weight behind it."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values, axes
from onnxopt.rewrite.affine import Array, require_own
from onnxopt.rewrite.dense import Dense


class FoldTransposeThroughFlatten(Rule):
    """Turn the rows of a constant weight instead of the tensor that is flattened before it.

    Needs a Transpose that leaves the samples in front, and dims of known size.
    Source: a Flatten and Dense of Keras behind convolutions, as tf2onnx writes them.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = MatMul(Reshape(Transpose(x, perm=[0, 2, 3, 1]), [-1, 12]), w)",
        "y = MatMul(Reshape(x, [-1, 12]), w2)",
    )

    def pattern(self, op, z: Value, w: Const, b: Value | None, how: Values):
        turned = op.Transpose(z).named("turned")
        x = op.one_of("Flatten", "Reshape")(turned, how).named("flat")
        return op.one_of("Gemm", "MatMul")(x, w, b).named("dense")

    def rewrite(self, op, hit):
        perm = axes.transposition(hit.turned) or ()
        dims, flat = hit.turned.output.shape, hit.flat.output
        hit.match(len(perm) > 2 and perm[0] == 0 and dims is not None and flat.rank == 2)
        hit.match(all(isinstance(dim, int) for dim in dims[1:]))
        hit.match(flat.dim(1) == int(np.prod(dims[1:])) and not hit.dense.attr("transA"))
        dense = Dense.of(hit, flat)
        hit.match(hit.w.rank == 2)
        require_own(hit, hit.w)
        columns = bool(hit.dense.attr("transB"))
        weight = op.const(_turned(hit.w.array, dims[1:], perm, columns), like=hit.w)
        rows = op.node(hit.flat.op_type, [hit.z, *hit.how], like=hit.flat)
        return op.node(dense.node.op_type, [rows, weight, hit.b], like=dense.node)


def _turned(weight: Array, dims: Any, perm: axes.Perm, columns: bool) -> Array:
    """The weight with its rows (or columns) in the order of the tensor that is not transposed."""
    inner = axes.inverse(tuple(axis - 1 for axis in perm[1:]))
    rows = weight.T if columns else weight
    tall = rows.reshape(*dims, -1).transpose(*inner, len(dims)).reshape(rows.shape)
    return np.ascontiguousarray(tall.T if columns else tall)
