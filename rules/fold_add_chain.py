"""Sums and differences with several constants."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FoldAddChain(Rule):
    """Add or subtract one constant instead of two in a row.

    Needs: a joined constant that is no larger than the larger of the two.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Sub(Add(x, 5), 2)", "y = Add(x, 3)")

    def pattern(self, op, x: Value, c: Const, d: Const):
        inner = op.either(op.Add(x, c).named("plus"), op.Sub(x, c), op.Sub(c, x).named("rest"))
        return op.either(op.one_of("Add", "Sub")(inner, d), op.Sub(d, inner).named("mirrored"))

    def rewrite(self, op, hit):
        x_sign = -1 if hit.rest is not None else 1
        c_sign = 1 if hit.rest is not None or hit.plus is not None else -1
        d_sign = -1 if hit.root.is_op("Sub") else 1
        if hit.mirrored is not None:
            x_sign, c_sign, d_sign = -x_sign, -c_sign, 1
        total = op.const(_total(hit, c_sign, d_sign), like=hit.c)
        return op.Add(hit.x, total) if x_sign > 0 else op.Sub(total, hit.x)


def _total(hit, c_sign: int, d_sign: int):
    c, d = hit.c.array, hit.d.array
    if hit.c.dtype.is_floating_point():
        c, d = c.astype(np.float64), d.astype(np.float64)
    with np.errstate(all="ignore"):
        total = (c if c_sign > 0 else -c) + (d if d_sign > 0 else -d)
    hit.match(total.size <= max(c.size, d.size))
    if hit.c.dtype.is_floating_point():
        hit.match(bool(np.all(np.abs(total) <= float(hit.c.dtype.max))))
    shared = any(each.size > 1024 and not each.has_one_reader for each in (hit.c, hit.d))
    hit.require(not shared, "a large constant is read elsewhere too")
    return total
