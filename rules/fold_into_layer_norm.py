"""Constants behind a normalization of the last axes, folded into its scale and bias."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import folded, wide_array


class FoldConstantIntoLayerNorm(Rule):
    """Take a constant Mul, Div, Add or Sub after a LayerNormalization into its scale and bias.

    The constant must broadcast to the normalized dims. An RMSNormalization takes factors only.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Mul(LayerNormalization(x, s, t), c)", "y = LayerNormalization(x, s2, t2)"
    )

    def pattern(self, op, x: Value, s: Const, t: Const | None, c: Const):
        norm = op.one_of("LayerNormalization", "RMSNormalization")(x, s, t).named("norm")
        return op.one_of("Add", "Sub", "Mul", "Div")(norm, c)

    def rewrite(self, op, hit):
        numbers, scale = wide_array(hit.c.array), wide_array(hit.s.array)
        hit.match(_within(hit.c.array, hit.s.array))
        bias = None if hit.t is None else wide_array(hit.t.array)
        if hit.root.op_type in ("Mul", "Div"):
            hit.require(hit.root.op_type == "Mul" or numbers.all(), "it divides by zero")
            factor = numbers if hit.root.op_type == "Mul" else 1 / numbers
            scale, bias = scale * factor, None if bias is None else bias * factor
        else:
            hit.match(hit.norm.op_type == "LayerNormalization")
            shift = numbers if hit.root.op_type == "Add" else -numbers
            bias = np.broadcast_to((0 if bias is None else bias) + shift, scale.shape)
        operands = [folded(op, hit, scale, hit.s)]
        if bias is not None:
            operands.append(folded(op, hit, bias, hit.t or hit.c, hit.s.dtype))
        return op.node(hit.norm.op_type, [hit.x, *operands], like=hit.norm)


def _within(array: Any, scale: Any) -> bool:
    """Whether the constant broadcasts to the dims of the scale without leading ones."""
    dims = array.shape[-scale.ndim :] if scale.ndim else ()
    lead = array.shape[: array.ndim - len(dims)]
    fits = all(dim in (1, size) for dim, size in zip(dims[::-1], scale.shape[::-1], strict=False))
    return not lead and fits
