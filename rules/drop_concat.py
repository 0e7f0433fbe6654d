"""Concats that join nothing, or what a Split took apart."""

from onnxopt.rewrite import Exactness, Example, Rule, Values


class DropConcat(Rule):
    """Leave a Concat out that has one input, or that joins all pieces of a Split in their order."""

    exactness = Exactness.EXACT
    example = Example("y = Concat(a, b, axis=1)  # a, b = Split(x, axis=1)", "y = x")

    def pattern(self, op, pieces: Values):
        return op.Concat(pieces)

    def rewrite(self, op, hit):
        if len(hit.pieces) == 1:
            return hit.pieces[0]
        split = hit.pieces[0].producer
        hit.match(split is not None and split.is_op("Split") and split.outputs == hit.pieces)
        axes, rank = (split.attr("axis"), hit.root.attr("axis")), hit.pieces[0].rank
        hit.match(axes[0] == axes[1] or (rank is not None and axes[0] % rank == axes[1] % rank))
        return split.input(0)


class DropEmptyPiece(Rule):
    """Leave pieces out of a Concat that have no elements along its axis."""

    exactness = Exactness.EXACT
    example = Example("y = Concat(x, e, axis=0)  # e is [0, 4]", "y = x")

    def pattern(self, op, pieces: Values):
        return op.Concat(pieces)

    def rewrite(self, op, hit):
        axis = hit.root.attr("axis")
        full = [piece for piece in hit.pieces if piece.dim(axis) != 0]
        hit.match(full and len(full) < len(hit.pieces))
        return op.node("Concat", full, like=hit.root)
