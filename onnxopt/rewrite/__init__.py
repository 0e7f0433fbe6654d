"""Everything a rule file imports: the rule class, its annotations and the exactness classes."""

from onnxopt import ops
from onnxopt.config import Exactness
from onnxopt.rewrite.flows import Flow, Layout, Resize, fixed, join
from onnxopt.rewrite.hit import Hit, NodeView, Operand, Refused
from onnxopt.rewrite.pattern import Attr, Const, Value, Values
from onnxopt.rewrite.rule import Example, Rule
from onnxopt.rewrite.specs import ChannelFlow, QuantSpec, Role, always

__all__ = [
    "Attr",
    "ChannelFlow",
    "Const",
    "Exactness",
    "Example",
    "Flow",
    "Hit",
    "Layout",
    "NodeView",
    "Operand",
    "QuantSpec",
    "Refused",
    "Resize",
    "Role",
    "Rule",
    "Value",
    "Values",
    "always",
    "fixed",
    "join",
    "ops",
]
