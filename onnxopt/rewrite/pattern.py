"""The small tree that a rule's `pattern` method is traced into."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxopt.errors import RuleError


class Value:
    """Annotation: any tensor."""


class Const:
    """Annotation: a tensor whose content is known (an initializer or a Constant node)."""


class Values:
    """Annotation: all remaining inputs of a variadic op."""


class Attr:
    """Annotation: the value of an attribute, bound under the parameter's name."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A parameter of `pattern`; the same variable twice means the same tensor."""

    name: str
    kind: type = Value
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant of one element (or all equal elements) whose value is near `number`."""

    number: float
    relative: float = 1e-4


@dataclass(eq=False, slots=True)
class NodePattern:
    """One op of the pattern. Compared by identity: one object matches one node."""

    domain: str
    op_types: tuple[str, ...]
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    outputs: int = 1
    label: str | None = None
    is_shared: bool = False
    producers: tuple[tuple[int, frozenset[str]], ...] = ()
    """Inputs that only some ops may make, with these ops ("" for an input without a producer)."""


@dataclass(frozen=True, slots=True)
class OutputPattern:
    """One output of a pattern node, usable as an input of another."""

    node: NodePattern
    index: int = 0

    def named(self, label: str) -> OutputPattern:
        """Make the matched node available as `hit.<label>`."""
        self.node.label = label
        return self

    def shared(self) -> OutputPattern:
        """Allow readers of this node's outputs outside of the match; the node then stays."""
        self.node.is_shared = True
        return self


@dataclass(frozen=True, slots=True)
class Either:
    """Any one of several subtrees, tried in order; as a root, each makes a pattern of its own."""

    options: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A traced pattern: its roots (whose outputs are replaced), all its nodes, and every name that
    the whole rule's hits have (variables and labels)."""

    roots: tuple[OutputPattern, ...]
    nodes: tuple[NodePattern, ...]
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.nodes)


@dataclass(slots=True)
class PatternBuilder:
    """The `op` of a pattern method: `op.Conv(x, w)` makes a node of the tree."""

    domain: str = ""
    nodes: list[NodePattern] = field(default_factory=list)

    def one_of(self, *op_types: str) -> Callable[..., Any]:
        """A node whose op is any of `op_types`."""

        def build(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            node = NodePattern(self.domain, op_types, inputs, attributes, outputs)
            self.nodes.append(node)
            if outputs == 1:
                return OutputPattern(node)
            return tuple(OutputPattern(node, index) for index in range(outputs))

        return build

    def either(self, *options: Any) -> Either:
        """A place where exporters differ: the first of `options` that matches counts.

        A variable that only some options bind is None in a hit where it was not bound.
        """
        return Either(options)

    def of(self, domain: str) -> PatternBuilder:
        """The same builder for ops of another domain."""
        return PatternBuilder(domain, self.nodes)

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return self.one_of(op_type)


_KINDS = {"Value": Value, "Const": Const, "Values": Values, "Attr": Attr}


def _variable(name: str, annotation: Any) -> Variable:
    """Read `Value`, `Const`, `Const | None`, `Values` or `Attr`, given as an object or as text."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if not text:
        text = str(annotation).replace("onnxopt.rewrite.pattern.", "")
    words = [word.strip().rsplit(".", 1)[-1] for word in text.split("|")]
    kind = next((_KINDS[word] for word in words if word in _KINDS), None)
    if kind is None:
        raise RuleError(
            f"the pattern parameter {name!r} has the annotation {annotation!r}",
            hint="annotate it as Value, Const, Const | None, Values or Attr",
        )
    return Variable(name, kind, "None" in words)


def trace(method: Callable[..., Any]) -> tuple[Pattern, ...]:
    """Call a bound `pattern` method once with placeholders and keep the tree it builds.

    Gives one pattern, or one for each option where the root is an Either.
    """
    parameters = list(inspect.signature(method).parameters.values())[1:]
    variables = [_variable(p.name, p.annotation) for p in parameters]
    builder = PatternBuilder()
    result = method(builder, *variables)
    options = result.options if isinstance(result, Either) else (result,)
    names = [variable.name for variable in variables]
    names += dict.fromkeys(node.label for node in builder.nodes if node.label is not None)
    return tuple(_pattern(option, names) for option in options)


def _pattern(result: Any, names: Sequence[str]) -> Pattern:
    roots: Sequence[Any] = result if isinstance(result, tuple) else (result,)
    if not roots or not all(isinstance(root, OutputPattern) for root in roots):
        raise RuleError("a pattern must return the output, or a tuple of outputs, that it replaces")
    nodes = tuple(_reachable(roots))
    for node in nodes:
        found = [(index, _producers(item)) for index, item in enumerate(node.inputs)]
        node.producers = tuple((index, allowed) for index, allowed in found if allowed is not None)
    return Pattern(tuple(roots), nodes, tuple(names))


_CONSTANT = frozenset({"", "Constant"})


def _producers(item: Any) -> frozenset[str] | None:
    if isinstance(item, OutputPattern):
        return frozenset(item.node.op_types)
    if isinstance(item, Either):
        found = [_producers(option) for option in item.options]
        return None if None in found else frozenset().union(*(each for each in found if each))
    if isinstance(item, Variable):
        return _CONSTANT if item.kind is Const and not item.optional else None
    return None if item is None else _CONSTANT


def _reachable(roots: Sequence[Any]) -> Iterator[NodePattern]:
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack:
        item = stack.pop()
        if isinstance(item, Either):
            stack.extend(item.options)
        elif isinstance(item, OutputPattern) and id(item.node) not in seen:
            seen.add(id(item.node))
            yield item.node
            stack.extend(item.node.inputs)
