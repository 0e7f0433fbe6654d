"""How channels pass operators that are given the shape of their output."""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


def _reshape(flow: Flow) -> None:
    layouts = flow.regroup(flow.all_of(0))
    flow.give(layouts)
    if not flow.node.has("shape"):
        flow.sizes_in(1, layouts)


def _expand(flow: Flow) -> None:
    sizes = flow.out_sizes()
    layouts: list[Layout] = []
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        own = flow.of(0, axis) if -axis <= flow.rank(0) else None
        if own is not None and own.size != 1:
            layouts.append(own)
        else:
            layouts.append(flow.new(size) if size and size > 1 else Layout(None))
    flow.give(layouts)
    flow.sizes_in(1, layouts)


def _constant(flow: Flow) -> None:
    layouts = [flow.new(size) if size and size > 1 else Layout(None) for size in flow.out_sizes()]
    flow.give(layouts)
    flow.sizes_in(0, layouts)


def _resize_constant(resize: Resize) -> None:
    resize.put_sizes(0, _changed(resize, resize.sizes(0)))


def _resize_target(resize: Resize) -> None:
    """Write the numbers of the axes that have changed where a number stands."""
    node = resize.node
    if node.has("shape"):
        numbers = _changed(resize, node.attr("shape"))
        shape = node.attr("shape")
        resize.set("shape", [numbers.get(axis, size) for axis, size in enumerate(shape)])
    else:
        resize.put_sizes(1, _changed(resize, resize.sizes(1)))


def _changed(resize: Resize, target: list[int | None]) -> dict[int, int]:
    found = {}
    for axis, size in enumerate(target):
        kept = resize.kept_out(axis)
        # An Expand to 1 leaves the size that its input has.
        if kept is not None and size is not None and size > 1:
            found[axis] = len(kept)
        elif size == 0 and _count(kept) != _count(resize.kept(0, axis)):
            found[axis] = resize.node.output.dim(axis) or 0 if kept is None else len(kept)
    return found


def _count(kept) -> int:
    return -1 if kept is None else len(kept)


RESHAPE = ChannelFlow(("Reshape",), _reshape, _resize_target)
EXPAND = ChannelFlow(("Expand",), _expand, _resize_target)
CONSTANT = ChannelFlow(("ConstantOfShape",), _constant, _resize_constant)
