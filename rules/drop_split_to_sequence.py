"""Splits into sequences of which the pieces are known."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class DropSplitToSequence(Rule):
    """Split a tensor into outputs where a SplitToSequence is read at constant places only.

    torch's dynamo exporter writes chunk and split so. Needs: pieces whose number is known, for
    pieces of one size a known size of the axis.
    """

    exactness = Exactness.EXACT
    example = Example("y = SequenceAt(SplitToSequence(x, [2, 3]), 1)", "_, y = Split(x, [2, 3])")
    opsets = (11, None)

    def pattern(self, op, x: Value, sizes: Const):
        return op.SplitToSequence(x, sizes).shared().named("split")

    def rewrite(self, op, hit):
        readers, axis = hit.split.output.readers, hit.split.attr("axis")
        sizes = _sizes(hit.sizes, hit.x.dim(axis)) or []
        places = [reader.input(1) for reader in readers if reader.is_op("SequenceAt")]
        numbers = [int(place.scalar) for place in places if place and place.scalar is not None]
        hit.match(sizes and len(numbers) == len(readers) and not hit.split.output.is_graph_output)
        hit.match(all(-len(sizes) <= number < len(sizes) for number in numbers))
        hit.match(all(reader.node.graph is hit.root.node.graph for reader in readers))
        if len(sizes) == 1:
            return {reader.output: hit.x for reader in readers}
        by_input = op.opset >= 13
        operands = [hit.x, op.ints(sizes)] if by_input else [hit.x]
        written = {"axis": axis} if by_input else {"axis": axis, "split": sizes}
        pieces = op.node("Split", operands, outputs=len(sizes), **written)
        pairs = zip(readers, numbers, strict=True)
        return {reader.output: pieces[number] for reader, number in pairs}


def _sizes(given, total: int | None) -> list[int] | None:
    """The sizes of the pieces, None where their number is not known."""
    if given.rank == 1:
        return given.ints
    if total is None or not given.scalar or given.scalar < 1:
        return None
    size = int(given.scalar)
    return [min(size, total - start) for start in range(0, total, size)]
