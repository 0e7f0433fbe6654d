"""How channels pass a Pad: what it adds are channels too, which go where others bring them in."""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, NodeView, Resize, join


def _ints(node: NodeView, name: str, index: int) -> list[int] | None:
    operand = node.input(index)
    if node.has(name):
        return list(node.attr(name))
    return None if operand is None else operand.ints


def _pads(node: NodeView, rank: int) -> dict[int, tuple[int, int]]:
    """How much is added before and after, by axis."""
    pads = _ints(node, "pads", 1)
    if pads is None:
        return {}
    axes = _ints(node, "axes", 3) or range(len(pads) // 2)
    half = len(pads) // 2
    return {axis % rank: (pads[at], pads[at + half]) for at, axis in enumerate(axes)}


def _pad(flow: Flow) -> None:
    found = _pads(flow.node, flow.rank(0))
    layouts: list[Layout | None] = list(flow.all_of(0))
    for axis, layout in enumerate(flow.all_of(0)):
        before, after = found.get(axis, (0, 0) if found else (1, 0))
        if layout.size is None or (before, after) == (0, 0):
            layouts[axis] = layout if (before, after) == (0, 0) else None
        elif flow.node.attr("mode", "constant") == "constant" and found and min(before, after) >= 0:
            layouts[axis] = join([flow.new(before), layout, flow.new(after)])
        else:
            flow.keep(layout, "pads them with copies, or by a number that is not known")
            layouts[axis] = None
    flow.give(layouts)


def _repad(resize: Resize) -> None:
    rank = len(resize.node.output.shape or ())
    found = _pads(resize.node, rank)
    moved = {}
    for at, (axis, (before, _)) in enumerate(found.items()):
        kept, x = resize.kept_out(axis), resize.node.input(0)
        size = None if x is None else x.dim(axis)
        if kept is not None and size is not None:
            moved[at] = int((kept < before).sum())
            moved[at + len(found)] = int((kept >= before + size).sum())
    if resize.node.has("pads"):
        pads = resize.node.attr("pads")
        resize.set("pads", [moved.get(at, number) for at, number in enumerate(pads)])
    else:
        resize.put_sizes(1, moved)


PAD = ChannelFlow(("Pad",), _pad, _repad)
