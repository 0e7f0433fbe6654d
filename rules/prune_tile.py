"""How channels pass a Tile: each repeat may go, and each channel in all repeats."""

from onnxopt.rewrite import ChannelFlow, Flow, Resize


def _tile(flow: Flow) -> None:
    repeats = flow.ints(1)
    if repeats is None:
        return
    layouts = []
    for axis, count in enumerate(repeats):
        layout = flow.of(0, axis)
        if count != 1 and count is not None and count > 0:
            layout = flow.merge([flow.new(count), layout])
        elif count != 1:
            flow.keep(layout, "repeats them a number of times that is not known")
        layouts.append(layout)
    flow.give(layouts)


def _retile(resize: Resize) -> None:
    numbers = {}
    for axis in range(len(resize.node.output.shape or ())):
        made, kept = resize.kept_out(axis), resize.kept(0, axis)
        x = resize.node.input(0)
        if made is not None and x is not None:
            size = (x.dim(axis) or 1) if kept is None else len(kept)
            numbers[axis] = len(made) // size
    resize.put_sizes(1, numbers)


TILE = ChannelFlow(("Tile",), _tile, _retile)
