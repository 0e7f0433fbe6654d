"""A factor or summand behind a look-up, folded into the table."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value
from onnxopt.rewrite.affine import folded, require_own, wide_array
from onnxopt.rewrite.dense import FLOATS


class FoldConstantIntoGather(Rule):
    """Take a constant number behind a look-up (Mul, Div, Add, Sub) into the table.

    Needs a table that nothing else reads. Source: embeddings scaled by the root of their size.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Mul(Gather(table, x), 8)", "y = Gather(table2, x)")

    def pattern(self, op, w: Const, x: Value, c: Const):
        return op.one_of("Add", "Div", "Mul", "Sub")(op.Gather(w, x).named("gather"), c)

    def rewrite(self, op, hit):
        rank = hit.gather.output.rank
        hit.match(hit.c.size == 1 and rank is not None and hit.c.rank <= rank)
        hit.match(hit.w.dtype in FLOATS)
        require_own(hit, hit.w)
        table = _combined(hit.root.op_type, wide_array(hit.w.array), hit.c.scalar)
        return op.Gather(folded(op, hit, table, hit.w), hit.x, like=hit.gather)


def _combined(op_type: str, table: Any, number: float) -> Any:
    function = {"Add": np.add, "Div": np.divide, "Mul": np.multiply, "Sub": np.subtract}[op_type]
    with np.errstate(divide="ignore", invalid="ignore"):
        return function(table, number)
