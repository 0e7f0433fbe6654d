"""How channels pass a Slice: the run of them that it cuts out."""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, NodeView, Resize


def _bounds(flow: Flow) -> dict[int, tuple[int | None, int | None, int | None]]:
    """Start, end and step by axis."""
    node = flow.node
    if node.has("starts"):
        starts, ends, steps = node.attr("starts"), node.attr("ends"), None
        axes = node.attr("axes")
    else:
        starts, ends, axes, steps = (flow.ints(index) for index in (1, 2, 3, 4))
    if starts is None or ends is None:
        return dict.fromkeys(_axes(flow, axes), (None, None, None))
    bounds = zip(starts, ends, steps or [1] * len(starts), strict=True)
    return dict(zip(_axes(flow, axes), bounds, strict=False))


def _axes(flow: Flow, axes) -> list[int]:
    rank = flow.rank(0)
    return list(range(rank)) if axes is None else [axis % rank for axis in axes]


def _slice(flow: Flow) -> None:
    layouts: list[Layout | None] = list(flow.all_of(0))
    for axis, (start, end, step) in _bounds(flow).items():
        layout = flow.of(0, axis)
        if start is None or end is None or step is None or layout.size is None:
            flow.keep(layout, "cuts them at places that it computes when it runs")
            layouts[axis] = None
        elif step == 1:
            layouts[axis] = layout.take(slice(start, end))
        elif 0 <= start < step and end >= layout.size and layout.size % step == 0:
            # One out of each block: whole blocks may go.
            layouts[axis], inner = flow.split(layout, (layout.size // step, step))
            flow.keep_parts(inner, "takes one of each such block")
        else:
            flow.keep(layout, "takes every second or so of them, from the middle or backwards")
            layouts[axis] = None
    flow.give(layouts)


def _reslice(resize: Resize) -> None:
    node = resize.node
    rank = len(node.output.shape or ())
    old = node.has("starts")
    names = enumerate(("starts", "ends", "axes", "steps"), 1)
    starts, ends, axes, steps = (_ints(node, name, index) for index, name in names)
    starts, ends = starts or [], ends or []
    moved: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for at, axis in enumerate(axes or range(len(starts))):
        kept, x = resize.kept(0, axis % rank), node.input(0)
        size = None if x is None else x.dim(axis)
        if kept is None or size is None:
            continue
        for new, bound in zip(moved, (starts[at], ends[at]), strict=True):
            bound = min(max(bound + size if bound < 0 else bound, 0), size)
            new[at] = int((kept < bound).sum())
        if steps and steps[at] != 1:
            del moved[0][at]
    for index, name, numbers, new in ((1, "starts", starts, moved[0]), (2, "ends", ends, moved[1])):
        if old and new:
            resize.set(name, [new.get(at, number) for at, number in enumerate(numbers)])
        else:
            resize.put_sizes(index, new)


def _ints(node: NodeView, name: str, index: int) -> list[int] | None:
    operand = node.input(index)
    if node.has(name):
        return list(node.attr(name))
    return None if operand is None else operand.ints


SLICE = ChannelFlow(("Slice",), _slice, _reslice)
