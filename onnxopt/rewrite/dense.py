"""How inputs and outputs lie in the weight of a Gemm or MatMul, and how to write one anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.rewrite.affine import Affine, Array, folded, is_dequantized, require_own, wide_array
from onnxopt.rewrite.build import RewriteBuilder
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Unmatched

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)
"""What Gemm and MatMul both compute in everywhere; onnxruntime has no Gemm of integers."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The Gemm or MatMul of a hit, in which `x` meets the weight `w` from the left."""

    node: NodeView
    x: Operand
    w: Operand

    @classmethod
    def of(cls, hit: Hit, x: Operand | None = None) -> Dense:
        """The node `hit.dense` with `x` (else `hit.x`) and `hit.w`.

        Raises Unmatched where `hit.w` is the left operand, and for whole or quantized numbers.
        """
        dense = cls(hit.dense, x or hit.x, hit.w)
        if dense.node.input(1) != dense.w or dense.w.dtype not in FLOATS:
            raise Unmatched("the weight is not on the right")
        if is_dequantized(dense.x, dense.w):
            raise Unmatched("the product is of quantized numbers")
        return dense

    @property
    def is_flat(self) -> bool:
        """Whether it multiplies two matrices, as a Gemm does."""
        return self.node.op_type == "Gemm" or (self.x.rank == 2 and self.w.rank == 2)

    @property
    def rank(self) -> int:
        """The rank of the output. Raises Unmatched where it is not known."""
        ranks = (self.x.rank, self.w.rank)
        if None in ranks or 1 in ranks:
            raise Unmatched("an unknown rank, or a vector")
        return max(rank or 0 for rank in ranks)

    @property
    def outputs(self) -> int:
        """The number of columns of the result. Raises Unmatched where it is not known."""
        return _known(self.w.dim(-2 if self._turned else -1))

    @property
    def inputs(self) -> int:
        """The number of columns of `x`. Raises Unmatched where it is not known."""
        return _known(self.w.dim(-1 if self._turned else -2))

    @property
    def input_axis(self) -> int:
        """The axis of `x` that is summed over."""
        if self.x.rank is None:
            raise Unmatched("an unknown rank")
        return 0 if self.node.attr("transA") else self.x.rank - 1

    @property
    def matrix(self) -> Array:
        """The constant that `x` is multiplied with, a row for each column of `x`; float64."""
        wide = wide_array(self.w.array) * float(self.node.attr("alpha", 1.0))
        return wide.swapaxes(-1, -2) if self._turned else wide

    def takes(self, constant: Operand) -> bool:
        """Whether it takes `x` as it takes `x` combined with the constant, by shape."""
        return constant.size == 1 or self.x.dim(self.input_axis) == self.inputs

    def bias(self, bias: Operand | None) -> Array | None:
        """What is added to the product, in float64."""
        if bias is None:
            return None
        return wide_array(bias.array) * float(self.node.attr("beta", 1.0))

    def scale_outputs(self, affine: Affine) -> Array:
        """The weight with each column of the result scaled; float64."""
        return self._scaled(affine.gain, self._turned)

    def scale_inputs(self, affine: Affine) -> Array:
        """The weight with each column of `x` scaled; float64."""
        return self._scaled(affine.gain, not self._turned)

    def response(self, shift: Array) -> Array:
        """What a constant added to each column of `x` adds to the columns of the result."""
        return np.asarray(shift @ self.matrix)

    def rebuilt(
        self,
        op: RewriteBuilder,
        hit: Hit,
        weight: Array | None,
        bias: Any,
        like: Operand,
        x: Any = None,
    ) -> Any:
        """The same product with other numbers; a MatMul that gets a bias becomes a Gemm.

        `weight` None keeps the tensor as it is. `bias` may be an array, an operand or None; `like`
        gives an array its name. `x` is what it reads instead.
        """
        if bias is not None and not self.is_flat:
            raise Unmatched("a Gemm multiplies matrices only")
        new_weight: Any = self.w
        if weight is not None:
            require_own(hit, self.w)
            new_weight = folded(op, hit, weight, self.w)
        new_bias = folded(op, hit, bias, like, self.w.dtype) if _is_array(bias) else bias
        inputs = [x or self.x, new_weight, new_bias]
        if new_bias is None:
            return op.node(self.node.op_type, inputs, like=self.node)
        written = {"beta": None} if _is_array(bias) else {}
        return op.Gemm(*inputs, like=self.node, **written)

    @property
    def _turned(self) -> bool:
        return bool(self.node.attr("transB"))

    def _scaled(self, gain: Array | None, rows: bool) -> Array:
        wide = wide_array(self.w.array)
        if gain is None:
            return wide
        return np.asarray(wide * (gain[:, None] if rows else gain))


def _is_array(item: Any) -> bool:
    return isinstance(item, np.ndarray)


def _known(size: int | None) -> int:
    if size is None:
        raise Unmatched("an unknown number of columns")
    return size
