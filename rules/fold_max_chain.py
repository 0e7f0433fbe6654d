"""Max of Max, Min of Min, Sum of Sum."""

import numpy as np

from onnxopt.rewrite import Exactness, Example, Operand, Rule, Values


class FoldMaxChain(Rule):
    """One Max, Min or Sum for nested ones.

    Needs: the inner result is not read elsewhere.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Max(Max(a, b), c)", "y = Max(a, b, c)")
    opsets = (8, None)

    def pattern(self, op, terms: Values):
        return op.one_of("Max", "Min", "Sum")(terms)

    def rewrite(self, op, hit):
        flat: list[Operand] = []
        for term in hit.terms:
            flat += term.producer.inputs if _is_inner(hit.root, term) else [term]
        hit.match(flat != hit.terms)
        return op.node(hit.root.op_type, flat, like=hit.root)


class FoldMaxConstants(Rule):
    """One constant for two in a Max or Min that no constant of theirs makes larger."""

    exactness = Exactness.CLOSE
    example = Example("y = Max(x, 1, 2)", "y = Max(x, 2)")
    opsets = (8, None)

    def pattern(self, op, terms: Values):
        return op.one_of("Max", "Min")(terms)

    def rewrite(self, op, hit):
        constants = [term for term in hit.terms if term.is_const]
        hit.match(len(constants) > 1 and len(constants) < len(hit.terms))
        best = constants[0].array
        for term in constants[1:]:
            best = (np.maximum if hit.root.is_op("Max") else np.minimum)(best, term.array)
        hit.match(best.size <= max(term.size for term in constants))
        others = [term for term in hit.terms if not term.is_const]
        return op.node(hit.root.op_type, [*others, op.const(best, like=constants[0])])


def _is_inner(root, term) -> bool:
    inner = term.producer
    return (
        inner is not None
        and inner.is_op(root.op_type)
        and term.has_one_reader
        and inner.node.graph is root.node.graph
    )
