"""Clips and Relus after one another."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms


class FoldClipChain(Rule):
    """One Clip for two in a row, or for a Clip and a Relu; a Relu where only zero bounds are left.

    Needs: bounds that are known.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Clip(Relu(x), -1, 6)", "y = Clip(x, 0, 6)")

    def pattern(self, op, x: Value, first: Values, second: Values):
        inner = op.one_of("Clip", "Relu")(x, first).named("inner")
        return op.one_of("Clip", "Relu")(inner, second).named("outer")

    def rewrite(self, op, hit):
        hit.match(hit.inner.is_op("Clip") or hit.outer.is_op("Clip"))
        hit.match(hit.x.dtype is not None and hit.x.dtype.is_floating_point())
        (low, high), (floor, ceiling) = _range(hit.inner), _range(hit.outer)
        low, high = (_within(limit, floor, ceiling) for limit in (low, high))
        low = floor if low is None else low
        high = ceiling if high is None else high
        if low == 0 and high is None:
            return op.Relu(hit.x)
        clip = hit.outer if hit.outer.is_op("Clip") else hit.inner
        return forms.clip_by(op, hit.x, low, high, like=clip)


def _range(node):
    return (0.0, None) if node.is_op("Relu") else forms.bounds(node)


def _within(limit, floor, ceiling):
    if limit is None:
        return None
    limit = limit if floor is None else max(limit, floor)
    return limit if ceiling is None else min(limit, ceiling)
