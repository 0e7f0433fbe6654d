"""How heads and their width pass the attention operators of onnxruntime."""

from onnxopt_rules.prune_heads import attend, heads, write_down

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


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
