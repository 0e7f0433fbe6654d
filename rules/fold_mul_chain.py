"""Products and quotients with several constants."""

import numpy as np
from onnx_ir import DataType

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FoldMulChain(Rule):
    """Multiply or divide by one constant instead of two in a row.

    Needs: floats (integers only where both are products), and a joined constant that the dtype
    holds and that is no larger than the larger of the two. The half of a Gelu in pieces stays,
    because onnxruntime looks for it.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Div(Mul(x, 6), 2)", "y = Mul(x, 3)")

    def pattern(self, op, x: Value, c: Const, d: Const):
        inner = op.either(op.Mul(x, c).named("times"), op.Div(x, c), op.Div(c, x).named("under"))
        return op.either(op.one_of("Mul", "Div")(inner, d), op.Div(d, inner).named("mirrored"))

    def rewrite(self, op, hit):
        hit.match(not _is_gated(hit.x))
        x_power = -1 if hit.under is not None else 1
        c_power = 1 if hit.under is not None or hit.times is not None else -1
        d_power = -1 if hit.root.is_op("Div") else 1
        if hit.mirrored is not None:
            x_power, c_power, d_power = -x_power, -c_power, 1
        product = op.const(_product(hit, c_power, d_power), like=hit.c)
        return op.Mul(hit.x, product) if x_power > 0 else op.Div(product, hit.x)


def _product(hit, c_power: int, d_power: int):
    c, d = hit.c.array, hit.d.array
    if hit.c.dtype.is_floating_point():
        with np.errstate(all="ignore"):
            product = c.astype(np.float64) ** c_power * d.astype(np.float64) ** d_power
        size = np.abs(product)
        smallest = 2.0**-14 if hit.c.dtype == DataType.FLOAT16 else 2.0**-126
        normal = (size >= smallest) & (size <= float(hit.c.dtype.max))
        hit.match(bool(np.all(normal | (size == 0))))
    else:
        hit.match(hit.root.is_op("Mul") and hit.times is not None)
        product = c * d
    hit.match(product.size <= max(c.size, d.size))
    shared = any(each.size > 1024 and not each.has_one_reader for each in (hit.c, hit.d))
    hit.require(not shared, "a large constant is read elsewhere too")
    return product


def _is_gated(x) -> bool:
    """Whether x is a product with 1 + erf(...)."""
    product = x.producer
    if product is None or not product.is_op("Mul"):
        return False
    sums = [each.producer for each in product.inputs if each.producer is not None]
    terms = [each.producer for add in sums if add.is_op("Add") for each in add.inputs]
    return any(term is not None and term.is_op("Erf") for term in terms)
