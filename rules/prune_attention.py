"""How heads and their width pass attention in one operator, with a head of keys for one or more.

The scale of the scores is written down when the width changes: it was learned with the old one.
"""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


def heads(flow: Flow, layout: Layout, count: int) -> tuple[Layout, Layout]:
    """The heads of an axis, and their width."""
    outer, width = flow.split(layout, (count, (layout.size or 0) // count))
    return named(flow, outer, width)


def named(flow: Flow, outer: Layout, width: Layout) -> tuple[Layout, Layout]:
    """Heads and width, with their names."""
    flow.label(outer, "heads")
    flow.label(width, "head width")
    return outer, width


def attend(flow: Flow, *parts: tuple[Layout, Layout]) -> tuple[Layout, Layout]:
    """The heads of the output and their width; query, key and value are tied on the way."""
    query, key, value = parts
    flow.equal(query[1], key[1])
    flow.equal(key[0], value[0])
    count, own = query[0].size or 1, key[0].size or 1
    tied = key[0] if count <= own else flow.merge([key[0], flow.new(count // own)])
    flow.equal(query[0], tied)
    return query[0], value[1]


def write_down(resize: Resize, index: int, width: int, counts: dict[str, int]) -> None:
    """Set the attributes that count heads, and the scale, where an operand's last axis changes.

    `counts` has for each attribute the operand whose heads it counts.
    """
    if resize.kept(index, -1) is None:
        return
    for name, operand in counts.items():
        kept, count = resize.kept(operand, -1), resize.node.attr(name)
        value = resize.node.input(operand)
        if kept is not None and value is not None and resize.node.has(name):
            size = (value.dim(-1) or 0) // count
            resize.set(name, len({int(at) // size for at in kept}))
    if not resize.node.attr("scale", 0.0):
        resize.set("scale", float(width) ** -0.5)


def _flat(flow: Flow, names: tuple[str, str]) -> Layout | None:
    """The last axis of the output where heads and width are one axis of each operand."""
    if any(flow.rank(index) != 3 for index in (0, 1, 2)):
        return None
    counts = [flow.node.attr(names[0]), flow.node.attr(names[1]), flow.node.attr(names[1])]
    parts = [heads(flow, flow.of(index, 2), count) for index, count in enumerate(counts)]
    for outer, width in [parts[0]] if flow.node.attr("do_rotary", 0) else []:
        flow.keep(width, f"turns them in pairs, in each of {outer.size} heads")
    for index, part in ((3, parts[1]), (4, parts[2])) if names[0] != names[1] else ():
        for axis, layout in ((1, part[0]), (3, part[1])) if flow.rank(index) else ():
            flow.equal(layout, flow.of(index, axis))
    present = [None, parts[1][0], None]
    for index, part in ((1, parts[1]), (2, parts[2])):
        flow.give([*present, part[1]], index)
    flow.reads(0, 2)
    return flow.merge(attend(flow, *parts))


def _multi_head(flow: Flow) -> None:
    if any(flow.rank(index) for index in (6, 7)):
        return
    out = _flat(flow, ("num_heads", "num_heads"))
    if out is None:
        return
    start = 0
    for index in (0, 1, 2) if flow.rank(3) else ():
        end = start + (flow.of(index, 2).size or 0)
        flow.equal(flow.of(index, 2), flow.of(3, 0).take(slice(start, end)))
        start = end
    if flow.rank(3):
        flow.reads(3, 0)
    flow.give([None, None, out])


def _grouped(flow: Flow) -> None:
    out = _flat(flow, ("num_heads", "kv_num_heads"))
    if out is not None:
        flow.give([None, None, out])


def _shrink(resize: Resize) -> None:
    x = resize.node.input(0)
    if x is not None:
        width = (x.dim(2) or 0) // resize.node.attr("num_heads")
        write_down(resize, 0, width, {"num_heads": 0, "kv_num_heads": 1})


MULTI_HEAD = ChannelFlow(("MultiHeadAttention",), _multi_head, _shrink, domain="com.microsoft")
GROUPED = ChannelFlow(("GroupQueryAttention",), _grouped, _shrink, domain="com.microsoft")
