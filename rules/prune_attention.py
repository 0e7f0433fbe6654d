"""How heads and their width pass attention in one operator.

The scale of the scores is written down when the width changes: it was learned with the old one.
"""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


def _heads(flow: Flow, layout: Layout, count: int) -> tuple[Layout, Layout]:
    """The heads of an axis, and their width."""
    heads, width = flow.split(layout, (count, (layout.size or 0) // count))
    flow.label(heads, "heads")
    flow.label(width, "head width")
    return heads, width


def _multi_head(flow: Flow) -> None:
    """com.microsoft.MultiHeadAttention of three separate operands, without a past."""
    count = flow.node.attr("num_heads")
    if any(flow.rank(index) != 3 for index in (0, 1, 2)) or any(map(flow.rank, (6, 7))):
        return
    parts = [flow.of(index, 2) for index in (0, 1, 2)]
    if flow.rank(3):
        start = 0
        for part in parts:
            end = start + (part.size or 0)
            flow.equal(part, flow.of(3, 0).take(slice(start, end)))
            start = end
    flow.give([flow.of(0, 0), flow.of(0, 1), _attend(flow, parts, (count, count))])
    flow.equal(flow.of(0, 0), flow.of(1, 0), flow.of(2, 0))
    flow.reads(0, 2)


def _grouped(flow: Flow) -> None:
    """com.microsoft.GroupQueryAttention of three separate operands."""
    counts = flow.node.attr("num_heads"), flow.node.attr("kv_num_heads")
    if any(flow.rank(index) != 3 for index in (0, 1, 2)):
        return
    parts = [flow.of(index, 2) for index in (0, 1, 2)]
    out = _attend(flow, parts, counts)
    heads, width = _heads(flow, parts[1], counts[1])
    if flow.node.attr("do_rotary", 0):
        flow.keep(width, "turns them by angles of its own")
    present = [flow.of(0, 0), heads, None, width]
    for index in (3, 4):
        if flow.rank(index):
            flow.equal(heads, flow.of(index, 1))
            flow.equal(width, flow.of(index, 3))
        flow.give(present, index - 2)
    flow.give([flow.of(0, 0), flow.of(0, 1), out])
    flow.reads(0, 2)


def _attend(flow: Flow, parts: list[Layout], counts: tuple[int, int]) -> Layout:
    """The last axis of the output; query, key and value are tied on the way."""
    query, key, value = (
        _heads(flow, part, count) for part, count in zip(parts, (*counts, counts[1]), strict=False)
    )
    flow.equal(query[1], key[1])
    flow.equal(key[0], value[0])
    repeat = counts[0] // counts[1]
    flow.equal(query[0], flow.merge([key[0], flow.new(repeat)]) if repeat > 1 else key[0])
    return flow.merge([query[0], value[1]])


def _shrink(resize: Resize) -> None:
    kept, x = resize.kept(0, 2), resize.node.input(0)
    if kept is None or x is None:
        return
    for name, index in (("num_heads", 0), ("kv_num_heads", 1)):
        left, operand = resize.kept(index, 2), resize.node.input(index)
        if left is not None and operand is not None and resize.node.has(name):
            count = resize.node.attr(name)
            width = (operand.dim(2) or 0) // count
            resize.set(name, len({int(i) // width for i in left}))
            if index == 0 and not resize.node.attr("scale", 0.0):
                resize.set("scale", float(width) ** -0.5)


MULTI_HEAD = ChannelFlow(("MultiHeadAttention",), _multi_head, _shrink, domain="com.microsoft")
GROUPED = ChannelFlow(("GroupQueryAttention",), _grouped, _shrink, domain="com.microsoft")
