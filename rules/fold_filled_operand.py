"""Tensors filled with one number, in elementwise operators."""

from onnxopt.rewrite import Exactness, Example, Rule, Values, dims, ops

_BROADCASTING = sorted(ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC)


class FoldFilledOperand(Rule):
    """Let an elementwise operator broadcast one number instead of a tensor filled with it.

    Needs: the other operands alone have the shape of the result, provably.
    """

    exactness = Exactness.EXACT
    example = Example("y = Mul(x, ConstantOfShape(Shape(x), value=2))", "y = Mul(x, 2)")
    opsets = (9, None)

    def pattern(self, op, operands: Values):
        return op.one_of(*_BROADCASTING)(operands)

    def rewrite(self, op, hit):
        for index in range(1 if hit.root.is_op("PRelu") else 0, len(hit.operands)):
            filled = hit.operands[index]
            others = [*hit.operands[:index], *hit.operands[index + 1 :]]
            if _is_filled(filled) and _is_supplied(filled.shape, others):
                number = op.const(_number(filled.producer), dtype=filled.dtype)
                operands = [*hit.operands[:index], number, *hit.operands[index + 1 :]]
                return op.node(hit.root.op_type, operands, like=hit.root)
        return None


def _is_filled(operand) -> bool:
    return operand.producer is not None and operand.producer.is_op("ConstantOfShape")


def _number(node):
    value = node.attr("value")
    return 0.0 if value is None else value.numpy().reshape(())


def _is_supplied(shape, others) -> bool:
    return (
        shape is not None and dims.reaches_rank(len(shape), others) and dims.supplied(shape, others)
    )
