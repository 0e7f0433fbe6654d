"""Everything a rule file imports: the rule class, its annotations and the exactness classes."""

from onnxopt import ops
from onnxopt.config import Exactness
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Refused
from onnxopt.rewrite.pattern import Attr, Const, Value, Values
from onnxopt.rewrite.rule import Example, Rule
from onnxopt.rewrite.specs import QuantSpec, Role, always

__all__ = [
    "Attr",
    "Const",
    "Exactness",
    "Example",
    "Hit",
    "NodeView",
    "Operand",
    "QuantSpec",
    "Refused",
    "Role",
    "Rule",
    "Value",
    "Values",
    "always",
    "ops",
]
