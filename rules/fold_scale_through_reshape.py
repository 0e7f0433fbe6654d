"""A factor behind reshapes and transpositions, folded into the product before them."""

from typing import Any

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values
from onnxopt.rewrite.affine import SMALL_BYTES, folded, wide_array
from onnxopt.rewrite.dense import FLOATS

_RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_LARGE_BYTES = 1 << 24
"""A larger weight stays as it is, perhaps in a file that is only mapped: one factor is cheaper."""
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class FoldScaleThroughReshape(Rule):
    """Take a constant factor into the weight of a product that is only reshaped in between.

    Needs one number, and tensors that nothing else reads. A quotient stays, because onnxruntime
    looks for it where it fuses the attention of DistilBERT.
    Source: the scaled queries and keys of PyTorch's attention.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Mul(Transpose(Reshape(Add(MatMul(x, w), b))), 0.5)",
        "y = Transpose(Reshape(Add(MatMul(x, w2), b2)))",
    )

    def pattern(self, op, x: Value, how: Values, c: Const):
        return op.Mul(op.one_of(*_RESHAPING)(x, how).shared().named("last"), c)

    def rewrite(self, op, hit):
        last = hit.last.output
        hit.match(hit.c.size == 1 and last.rank is not None and hit.c.rank <= last.rank)
        hit.match(hit.c.dtype in FLOATS)
        source, graph = last, hit.root.node.graph
        while source is not None and source.producer is not None:
            hit.match(source.has_one_reader and source.producer.node.graph is graph)
            if not source.producer.is_op(*_RESHAPING):
                break
            source = source.producer.input(0)
        scaled = _scaled(op, hit, source, float(hit.c.scalar))
        hit.match(scaled is not None)
        return {hit.root.output: last, source: scaled}


def _scaled(op: Any, hit: Any, value: Any, factor: float) -> Any:
    """The value times the factor by other constants in what makes it, None where there are none."""
    node = None if value is None else value.producer
    if node is None or not value.has_one_reader:
        return None
    if node.is_op(*_LINEAR):
        return _linear(op, hit, node, factor)
    constant = next((each for each in node.inputs if each is not None and each.is_const), None)
    if constant is None or not node.is_op("Add", "Sub"):
        return None
    other = next((each for each in node.inputs if each != constant), None)
    scaled = _scaled(op, hit, other, factor)
    if scaled is None:
        return None
    summand = folded(op, hit, wide_array(constant.array) * factor, constant)
    inputs = [summand if each == constant else scaled for each in node.inputs]
    return op.node(node.op_type, inputs, like=node)


def _linear(op: Any, hit: Any, node: Any, factor: float) -> Any:
    weights = [each for each in node.inputs[:2] if each is not None and _may_change(each)]
    bias = node.input(2)
    if not weights or (bias is not None and not bias.is_const):
        return None
    new = {weights[-1]: folded(op, hit, wide_array(weights[-1].array) * factor, weights[-1])}
    if bias is not None:
        new[bias] = folded(op, hit, wide_array(bias.array) * factor, bias)
    inputs = [new.get(each, each) for each in node.inputs]
    return op.node(node.op_type, inputs, like=node)


def _may_change(weight: Any) -> bool:
    if not weight.is_const or weight.dtype not in FLOATS:
        return False
    size = weight.array.nbytes
    return size <= SMALL_BYTES or (weight.has_one_reader and size <= _LARGE_BYTES)
