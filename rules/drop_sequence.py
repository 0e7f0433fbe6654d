"""Sequences that are made only to be taken apart, as scripted PyTorch does."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value, Values


class DropSequenceAt(Rule):
    """Read an element where it went into a SequenceConstruct."""

    exactness = Exactness.EXACT
    example = Example("y = SequenceAt(SequenceConstruct(a, b), 1)", "y = b")
    opsets = (11, None)

    def pattern(self, op, items: Values, index: Const):
        return op.SequenceAt(op.SequenceConstruct(items).shared(), index)

    def rewrite(self, op, hit):
        position = int(hit.index.scalar)
        hit.match(-len(hit.items) <= position < len(hit.items))
        return hit.items[position]


class DropConcatFromSequence(Rule):
    """Concat what went into a SequenceConstruct, where it stacks along an axis that is there."""

    exactness = Exactness.EXACT
    example = Example(
        "y = ConcatFromSequence(SequenceConstruct(a, b), axis=1)", "y = Concat(a, b, axis=1)"
    )
    opsets = (11, None)

    def pattern(self, op, items: Values):
        return op.ConcatFromSequence(op.SequenceConstruct(items).shared()).named("join")

    def rewrite(self, op, hit):
        hit.match(not hit.join.attr("new_axis"))
        return op.Concat(*hit.items, axis=hit.join.attr("axis"))


class DropOptional(Rule):
    """Read an element where it was made optional."""

    exactness = Exactness.EXACT
    example = Example("y = OptionalGetElement(Optional(x))", "y = x")
    opsets = (15, None)

    def pattern(self, op, x: Value):
        return op.OptionalGetElement(op.Optional(x).shared())

    def rewrite(self, op, hit):
        return hit.x
