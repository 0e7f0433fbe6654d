"""Negations beside sums and products."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, dims


class FoldNegationIntoSum(Rule):
    """Subtract instead of adding the negative, and add instead of subtracting it.

    A product with -1 counts as a negation. Only the sign of a NaN can change.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Add(a, Neg(b))", "y = Sub(a, b)")

    def pattern(self, op, a: Value, b: Value, c: Const):
        return op.one_of("Add", "Sub")(a, op.either(op.Neg(b), op.Mul(b, c)))

    def rewrite(self, op, hit):
        negates = hit.c is None or (hit.c.filled == -1 and dims.stretches_to(hit.c, hit.b))
        hit.match(negates)
        return op.Sub(hit.a, hit.b) if hit.root.is_op("Add") else op.Add(hit.a, hit.b)


class FoldNegatedDifference(Rule):
    """Swap the operands of a difference instead of negating it.

    Only the sign of a zero or a NaN can change.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Neg(Sub(a, b))", "y = Sub(b, a)")

    def pattern(self, op, a: Value, b: Value):
        return op.Neg(op.Sub(a, b).named("difference"))

    def rewrite(self, op, hit):
        return op.Sub(hit.b, hit.a, like=hit.difference)


class FoldNegationIntoFactor(Rule):
    """Negate a constant factor or divisor of floats instead of the data."""

    exactness = Exactness.CLOSE
    example = Example("y = Neg(Mul(x, 3))", "y = Mul(x, -3)")

    def pattern(self, op, x: Value, c: Const):
        return op.either(
            op.Neg(op.one_of("Mul", "Div")(x, c).named("product")),
            op.one_of("Mul", "Div")(op.Neg(x), c).named("product"),
        )

    def rewrite(self, op, hit):
        hit.match(hit.c.dtype.is_floating_point())
        hit.require(
            hit.c.size <= 1024 or hit.c.has_one_reader, "the large constant is read elsewhere too"
        )
        constant = op.const(-hit.c.array, like=hit.c)
        return op.node(hit.product.op_type, [hit.x, constant], like=hit.product)
