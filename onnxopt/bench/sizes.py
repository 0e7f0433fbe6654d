"""What a symbolic dim comes to when the symbols in it have sizes."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping

_WORD = re.compile(r"[^\s()+\-*/,]+")

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
}

_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "broadcast": max,
    "ceiling": math.ceil,
    "floor": math.floor,
    "floordiv": operator.floordiv,
    "max": max,
    "min": min,
}


def symbols(dim: str) -> frozenset[str]:
    """The names in an expression such as "floordiv(height + 1, 2)"."""
    words = _WORD.findall(dim)
    return frozenset(word for word in words if not word.isdigit() and word not in _FUNCTIONS)


def evaluate(dim: str, sizes: Mapping[str, int]) -> int | None:
    """The number that an expression comes to; None where it is not known, negative or no number."""
    if not symbols(dim) <= sizes.keys():
        return None
    numbers = _WORD.sub(lambda word: str(sizes.get(word[0], word[0])), dim)
    try:
        found = _value(ast.parse(numbers, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return None
    return int(found) if found >= 0 and found == int(found) else None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        return _OPERATORS[type(node.op)](left, right)  # type: ignore[arg-type]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*map(_value, node.args))
    raise ValueError(f"{ast.dump(node)} is not part of a dim")
