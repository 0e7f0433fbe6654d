"""How channels pass operators that resize images or move pixels between space and depth."""

from onnxopt.rewrite import ChannelFlow, Flow, Resize, fixed


def _depth_to_space(flow: Flow) -> None:
    block, x = flow.node.attr("blocksize"), flow.of(0, 1)
    if x.size is None:
        return
    rest = x.size // block**2
    if flow.node.attr("mode", "DCR") == "CRD":
        out, moved = flow.split(x, (rest, block**2))
    else:
        moved, out = flow.split(x, (block**2, rest))
    flow.keep_parts(moved, "makes pixels of them")
    flow.give([flow.of(0, 0), out, None, None])


def _space_to_depth(flow: Flow) -> None:
    block = flow.node.attr("blocksize")
    flow.give([flow.of(0, 0), flow.merge([fixed(block**2, ""), flow.of(0, 1)]), None, None])


def _resize(flow: Flow) -> None:
    """Axes that keep their size; with `sizes` their number stands in there."""
    layouts = []
    rank, sizes = flow.rank(0), flow.out_sizes()
    scales = _scales(flow)
    stretch = flow.node.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    for axis in range(rank):
        same = scales.get(axis, 1.0) == 1.0 if scales is not None else False
        known = sizes[axis] is not None and sizes[axis] == flow.of(0, axis).size
        same = same or (scales is None and known and stretch)
        layouts.append(flow.of(0, axis) if same else None)
        if layouts[-1] is None:
            flow.keep(flow.of(0, axis), "interpolates between them")
    flow.give(layouts)
    if flow.node.op_type == "Resize" and flow.rank(3):
        axes = flow.node.attr("axes") or range(rank)
        flow.sizes_in(3, [layouts[axis % rank] or fixed(None, "") for axis in axes])


def _scales(flow: Flow) -> dict[int, float] | None:
    node = flow.node
    if node.has("scales"):
        return dict(enumerate(node.attr("scales")))
    scales = node.input(2 if node.op_type == "Resize" and node.opset > 10 else 1)
    if scales is None or not scales.is_const or not scales.size:
        return None
    axes = node.attr("axes") if node.op_type == "Resize" else None
    return dict(zip(axes or range(flow.rank(0)), scales.array.tolist(), strict=False))


def _resize_sizes(resize: Resize) -> None:
    if resize.node.op_type != "Resize" or resize.node.input(3) is None:
        return
    rank = len(resize.node.output.shape or ())
    numbers = {}
    for at, axis in enumerate(resize.node.attr("axes") or range(rank)):
        kept = resize.kept_out(axis % rank)
        if kept is not None and resize.sizes(3)[at] is not None:
            numbers[at] = len(kept)
    resize.put_sizes(3, numbers)


DEPTH_TO_SPACE = ChannelFlow(("DepthToSpace",), _depth_to_space)
SPACE_TO_DEPTH = ChannelFlow(("SpaceToDepth",), _space_to_depth)
RESIZE = ChannelFlow(("Resize", "Upsample"), _resize, _resize_sizes)
