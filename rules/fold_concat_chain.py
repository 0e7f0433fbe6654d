"""Concats of Concats."""

from onnxopt.rewrite import Exactness, Example, Operand, Rule, Values


class FoldConcatChain(Rule):
    """One Concat for nested ones along the same axis.

    Needs: the inner result is not read elsewhere.
    """

    exactness = Exactness.EXACT
    example = Example("y = Concat(a, Concat(b, c, axis=1), axis=1)", "y = Concat(a, b, c, axis=1)")

    def pattern(self, op, pieces: Values):
        return op.Concat(pieces)

    def rewrite(self, op, hit):
        flat: list[Operand] = []
        for piece in hit.pieces:
            flat += piece.producer.inputs if _is_inner(hit.root, piece) else [piece]
        hit.match(flat != hit.pieces)
        return op.node("Concat", flat, like=hit.root)


def _is_inner(root, piece) -> bool:
    inner = piece.producer
    if inner is None or not inner.is_op("Concat") or not piece.has_one_reader:
        return False
    axes = (inner.attr("axis"), root.attr("axis"))
    same = axes[0] == axes[1] or (piece.rank and axes[0] % piece.rank == axes[1] % piece.rank)
    return bool(same) and inner.node.graph is root.node.graph
