"""Wheres whose choice is known, or that negate their condition."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, dims


class DropWhere(Rule):
    """Take the branch of a Where that a constant condition always takes, or that both branches are.

    Needs: the condition and the other branch do not spread the branch over more elements. Close,
    because onnxruntime adds up the two branches, zeros in the places not taken, and so loses -0.0.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Where(true, a, b)", "y = a")
    opsets = (9, None)

    def pattern(self, op, condition: Value, a: Value, b: Value):
        return op.Where(condition, a, b)

    def rewrite(self, op, hit):
        filled = hit.condition.filled if hit.condition.is_const else None
        hit.match(filled is not None or hit.a == hit.b)
        chosen, other = (hit.b, hit.a) if filled == 0 else (hit.a, hit.b)
        stretches = dims.stretches_to(other, chosen) and dims.stretches_to(hit.condition, chosen)
        hit.match(stretches or chosen.same_shape(hit.root.output))
        return chosen


class FoldNotIntoWhere(Rule):
    """Swap the branches of a Where instead of negating its condition.

    Needs: nothing but Wheres reads the negated condition. Close, because it depends on the order of
    the branches which -0.0 onnxruntime keeps.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Where(Not(c), a, b)", "y = Where(c, b, a)")
    opsets = (9, None)

    def pattern(self, op, c: Value, a: Value, b: Value):
        return op.Where(op.Not(c).shared().named("negation"), a, b).named("where")

    def rewrite(self, op, hit):
        negated = hit.negation.output
        hit.match(not negated.is_graph_output)
        hit.match(all(_chooses_by(each, negated) for each in negated.readers))
        return op.Where(hit.c, hit.b, hit.a, like=hit.where)


def _chooses_by(node, condition) -> bool:
    return node.is_op("Where") and [condition == each for each in node.inputs] == [
        True,
        False,
        False,
    ]
