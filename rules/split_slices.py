"""Slices that take a tensor apart, as one Split."""

from typing import Any

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, forms

_Piece = tuple[int, int, int]
"""Axis, start and end; both counted from the front."""
_NOTHING = (-1, 0, 0)


class SplitSlices(Rule):
    """One Split for the Slices (or Gathers of neighbours) that together take up a whole axis.

    Needs an axis of known size and parts that neither overlap nor leave anything out.
    """

    exactness = Exactness.EXACT
    example = Example("a = x[:, :2]  b = x[:, 2:]", "a, b = Split(x, [2, size - 2], axis=1)")

    def pattern(self, op, x: Value, how: Values):
        return op.one_of("Slice", "Gather")(x, how)

    def rewrite(self, op, hit):
        mine = _piece(hit.root, hit.x) or _NOTHING
        hit.match(mine != _NOTHING)
        graph = hit.root.node.graph
        near = [node for node in hit.x.readers if node.node.graph is graph]
        others = [(node, _piece(node, hit.x)) for node in near]
        parts = {piece: node.output for node, piece in others if piece and piece[0] == mine[0]}
        ordered = sorted(parts)
        ends = [0, *(end for _, _, end in ordered)]
        whole = [start for _, start, _ in ordered] == ends[:-1] and ends[-1] == hit.x.dim(mine[0])
        hit.match(len(parts) > 1 and whole and parts[mine] == hit.root.output)
        sizes = [end - start for _, start, end in ordered]
        operands: list[Any] = [hit.x]
        written: dict[str, Any] = {"axis": mine[0]}
        if op.opset >= 13:
            operands.append(op.ints(sizes))
        else:
            written["split"] = sizes
        made = op.node("Split", operands, outputs=len(sizes), **written)
        return dict(zip((parts[piece] for piece in ordered), made, strict=True))


def _piece(node: Any, x: Any) -> _Piece | None:
    """What the node takes of x, if that is a run of neighbours along one axis and not all."""
    if not node.is_op("Slice", "Gather") or node.input(0) != x or x.rank is None:
        return None
    found = _slice(node) if node.op_type == "Slice" else _gather(node, x.rank)
    size = None if found is None else x.dim(found.axis)
    if found is None or size is None or found.step != 1:
        return None
    start, end, _ = slice(found.start, found.end).indices(size)
    return (found.axis, start, end) if start < end and end - start < size else None


def _slice(node: Any) -> forms.Part | None:
    known = node.has("starts") or all(each is None or each.is_const for each in node.inputs[1:])
    parts = forms.parts(node) if known else []
    return parts[0] if len(parts) == 1 else None


def _gather(node: Any, rank: int) -> forms.Part | None:
    indices = node.input(1)
    numbers = indices.ints if indices.rank == 1 else None
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    if numbers[0] < 0:
        return None
    return forms.Part(node.attr("axis") % rank, numbers[0], numbers[-1] + 1)
