"""Transpositions of transpositions."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class FoldTransposeChain(Rule):
    """One Transpose for two in a row, none where the second undoes the first."""

    exactness = Exactness.EXACT
    example = Example("y = Transpose(Transpose(x, perm=[0, 2, 1]), perm=[0, 2, 1])", "y = x")

    def pattern(self, op, x: Value):
        return op.Transpose(op.Transpose(x).shared().named("inner")).named("outer")

    def rewrite(self, op, hit):
        first, second = _perm(hit, hit.inner), _perm(hit, hit.outer)
        perm = [first[axis] for axis in second]
        if perm == sorted(perm):
            return hit.x
        hit.match(hit.inner.output.has_one_reader)
        return op.Transpose(hit.x, perm=perm, like=hit.outer)


def _perm(hit, node) -> list[int]:
    perm = node.attr("perm")
    if perm is None:
        hit.match(hit.x.rank is not None)
        perm = range(hit.x.rank)[::-1]
    return list(perm)
