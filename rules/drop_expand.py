"""Expand and Tile that change nothing, or that broadcasting does anyway."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, dims, ops

_BROADCASTING = sorted(ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC)


class DropExpand(Rule):
    """Leave an Expand or Tile out that gives the shape it gets."""

    exactness = Exactness.EXACT
    example = Example("y = Tile(x, [1, 1])", "y = x")

    def pattern(self, op, x: Value, sizes: Value):
        return op.one_of("Expand", "Tile")(x, sizes)

    def rewrite(self, op, hit):
        ones = set(hit.sizes.ints or [0]) == {1}
        fits = hit.root.is_op("Tile") or (hit.x.rank or 0) >= (hit.sizes.size or 0)
        hit.match(hit.x.same_shape(hit.root.output) or (ones and fits))
        return hit.x


class DropExpandBeforeBroadcast(Rule):
    """Let an elementwise operator broadcast what an Expand, a Tile or an Unsqueeze spread before.

    Needs: every dim that was spread is a dim of another operand, provably. An Unsqueeze or Reshape
    counts where it puts ones in front. The mask of a Where on its way to a Softmax stays, because
    onnxruntime's attention fusion looks for it.
    """

    exactness = Exactness.EXACT
    example = Example("y = Add(x, Expand(b, [4, 8]))  # x is [4, 8]", "y = Add(x, b)")

    def pattern(self, op, operands: Values):
        return op.one_of(*_BROADCASTING)(operands)

    def rewrite(self, op, hit):
        hit.match(not _makes_scores(hit.root))
        for index in range(1 if hit.root.is_op("PRelu") else 0, len(hit.operands)):
            source = _before(hit.operands, index)
            if source is not None:
                operands = [*hit.operands[:index], source, *hit.operands[index + 1 :]]
                return op.node(hit.root.op_type, operands, like=hit.root)
        return None


def _before(operands, index):
    """What the operand was before it was spread, or None where it must stay spread."""
    operand = operands[index]
    node = operand.producer
    if node is None or not node.is_op("Expand", "Tile", "Unsqueeze", "Reshape"):
        return None
    source, result = node.input(0), operand.shape
    if source.shape is None or result is None or len(source.shape) > len(result):
        return None
    others = [*operands[:index], *operands[index + 1 :]]
    if len(source.shape) < len(result) and not dims.reaches_rank(len(result), others):
        return None
    pairs = list(zip(dims.aligned(source.shape, len(result)), result, strict=True))
    if node.is_op("Unsqueeze", "Reshape"):
        return (
            source if operand.has_one_reader and all(dims.same(*pair) for pair in pairs) else None
        )
    if node.is_op("Tile") and not all(dims.same(*pair) or pair[0] == 1 for pair in pairs):
        return None
    spread = tuple(1 if dims.same(*pair) else pair[1] for pair in pairs)
    return source if dims.supplied(spread, others) else None


def _makes_scores(node) -> bool:
    return node.is_op("Where") and any(reader.is_op("Softmax") for reader in node.output.readers)
