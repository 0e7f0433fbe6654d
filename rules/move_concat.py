"""A Split and a Concat around the same operators on every part."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Exactness, Example, Rule, Values, ops
from onnxopt.rewrite.affine import Array

_WITH_CONSTANT = ("Add", "Div", "Mul", "Sub")


class MoveConcat(Rule):
    """Run elementwise operators on the whole tensor instead of on each part of a Split.

    Needs a Concat that joins all parts again in their order, and the same operators on each; their
    constants are joined too. Source: `transform_input` of torchvision's GoogLeNet and Inception.
    """

    exactness = Exactness.EXACT
    example = Example("a, b = Split(x)  y = Concat(Mul(a, 2), Mul(b, 3))", "y = Mul(x, [[2], [3]])")

    def pattern(self, op, parts: Values):
        return op.Concat(parts)

    def rewrite(self, op, hit):
        branches = [_branch(hit, part) for part in hit.parts]
        tops = [branch.pop() for branch in branches]
        split = tops[0].producer
        depth = len(branches[0])
        hit.match(depth and all(len(branch) == depth for branch in branches))
        hit.match(split.outputs == tops and all(top.has_one_reader for top in tops))
        x = split.input(0)
        hit.match(x.rank and split.attr("axis") % x.rank == hit.root.attr("axis") % x.rank)
        axis = split.attr("axis") % x.rank
        sizes = [top.dim(axis) for top in tops]
        hit.match(None not in sizes)
        new: Any = x
        for level in reversed(range(depth)):
            new = _whole(op, hit, [branch[level] for branch in branches], new, axis, sizes, x.rank)
        return new


def _branch(hit: Any, part: Any) -> list[Any]:
    """The nodes on the way from the part up to a Split, and the Split's output last."""
    nodes: list[Any] = []
    while True:
        node: Any = None if part is None else part.producer
        hit.match(node is not None and node.node.graph is hit.root.node.graph)
        if node.is_op("Split"):
            return [*nodes, part]
        hit.match(part.has_one_reader and node.is_op(*_WITH_CONSTANT, *ops.ELEMENTWISE_UNARY))
        moving = [each for each in node.inputs if each is not None and not each.is_const]
        alone = len(node.inputs) == 1 or node.op_type in _WITH_CONSTANT
        hit.match(alone and len(moving) == 1)
        nodes.append(node)
        part = moving[0]


def _whole(
    op: Any, hit: Any, nodes: list[Any], new: Any, axis: int, sizes: list[int], rank: int
) -> Any:
    """One node in the place of those at one level of all branches."""
    first = nodes[0]
    written = [dict(node.node.attributes) for node in nodes]
    hit.match(all(node.op_type == first.op_type for node in nodes))
    hit.match(all(each == written[0] for each in written))
    if len(first.inputs) == 1:
        return op.node(first.op_type, [new], like=first)
    slots = [0 if node.inputs[0].is_const else 1 for node in nodes]
    commutes = first.op_type in ops.COMMUTATIVE
    hit.match(commutes or len(set(slots)) == 1)
    constants = [node.inputs[slot] for node, slot in zip(nodes, slots, strict=True)]
    pairs = zip(constants, sizes, strict=True)
    arrays = [_spread(hit, constant.array, axis, size, rank) for constant, size in pairs]
    hit.match(len({array.shape[:axis] + array.shape[axis + 1 :] for array in arrays}) == 1)
    joined = op.const(np.concatenate(arrays, axis), like=constants[0])
    inputs = [new, joined] if commutes or slots[0] == 1 else [joined, new]
    return op.node(first.op_type, inputs, like=first)


def _spread(hit: Any, array: Array, axis: int, size: int, rank: int) -> Array:
    """The constant with `rank` dims, as many numbers along the axis as the part has."""
    hit.match(array.ndim <= rank)
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
    hit.match(wide.shape[axis] in (1, size))
    return np.repeat(wide, size, axis) if wide.shape[axis] == 1 else wide
