"""A BatchNormalization behind a Concat, folded into the convolutions before it."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Values
from onnxopt.rewrite.affine import Affine, folded, of_batch_norm
from onnxopt.rewrite.convolution import ConvWeight


class FoldBatchNormThroughConcat(Rule):
    """Take a BatchNormalization behind a Concat of convolutions into each of their weights.

    Needs convolutions of constant weight that only the Concat reads, joined along their channels.
    Source: the CSP bottlenecks of YOLOv4 and early YOLOv5.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = BatchNormalization(Concat(Conv(a, w), Conv(b, u)), s, t, m, v)",
        "y = Concat(Conv(a, w2, b2), Conv(b, u2, c2))",
    )

    def pattern(self, op, parts: Values, s: Const, t: Const, m: Const, v: Const):
        return op.BatchNormalization(op.Concat(parts, axis=1).named("concat"), s, t, m, v)

    def rewrite(self, op, hit):
        hit.match(len(set(hit.parts)) == len(hit.parts) and all(map(_is_own_conv, hit.parts)))
        weights = [ConvWeight(part.producer, part.producer.input(1)) for part in hit.parts]
        affine = of_batch_norm(hit, hit.root, sum(weight.outputs for weight in weights))
        parts, start = [], 0
        for weight in weights:
            parts.append(_scaled(op, hit, weight, affine.part(start, start + weight.outputs)))
            start += weight.outputs
        return op.Concat(*parts, like=hit.concat)


def _is_own_conv(part: Any) -> bool:
    """Whether nobody but the Concat reads this convolution, and nobody but it its weight."""
    conv = part.producer
    if conv is None or not conv.is_op("Conv", "ConvTranspose") or not part.has_one_reader:
        return False
    weight, bias = conv.input(1), conv.input(2)
    own = weight.is_const and weight.has_one_reader
    return bool(own and (bias is None or bias.is_const))


def _scaled(op: Any, hit: Any, weight: ConvWeight, affine: Affine) -> Any:
    conv, bias = weight.node, weight.node.input(2)
    shift = affine.of(np.zeros(weight.outputs) if bias is None else bias.array)
    new = folded(op, hit, weight.scale_outputs(affine), weight.operand)
    new_bias = folded(op, hit, shift, bias or hit.t, weight.operand.dtype)
    return op.node(conv.op_type, [conv.input(0), new, new_bias], like=conv)
