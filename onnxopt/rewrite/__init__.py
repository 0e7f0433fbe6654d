"""Everything a rule file imports: the rule class, its annotations and the exactness classes."""

from onnxopt import ops
from onnxopt.config import Exactness
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Refused
from onnxopt.rewrite.pattern import Attr, Const, Value, Values
from onnxopt.rewrite.rule import Example, Rule

__all__ = [
    "Attr",
    "Const",
    "Exactness",
    "Example",
    "Hit",
    "NodeView",
    "Operand",
    "Refused",
    "Rule",
    "Value",
    "Values",
    "ops",
]
