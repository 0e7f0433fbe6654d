"""How heads and their width pass com.microsoft.Attention, which holds the projections too."""

from onnxopt_rules.prune_heads import attend, heads

from onnxopt.rewrite import ChannelFlow, Flow, NodeView, Resize


def _sizes(node: NodeView) -> list[int]:
    """The widths of query, key and value, all heads together."""
    weight = node.input(1)
    total = (weight.dim(1) or 0) if weight is not None else 0
    return list(node.attr("qkv_hidden_sizes") or [total // 3] * 3)


def _attention(flow: Flow) -> None:
    count = flow.node.attr("num_heads")
    if flow.rank(4) or flow.node.attr("do_rotary", 0):
        return
    parts, start = [], 0
    for size in _sizes(flow.node):
        parts.append(heads(flow, flow.of(1, 1).take(slice(start, start + size)), count))
        start += size
    if flow.rank(2):
        flow.equal(flow.of(1, 1), flow.of(2, 0))
        flow.reads(2, 0)
    outer, width = attend(flow, *parts)
    if flow.rank(5) > 2:
        flow.equal(outer, flow.of(5, -3))
    flow.equal(flow.of(0, 2), flow.of(1, 0))
    flow.give([None, None, flow.merge([outer, width])])
    flow.writes(2, (1, 1), (2, 0))
    flow.reads(0, 2, (1, 0))
    # Queries meet keys inside: there the columns have to be held at zero.
    flow.reads(1, 1)


def _shrink(resize: Resize) -> None:
    kept = resize.kept(1, 1)
    if kept is None:
        return
    count, start, sizes = resize.node.attr("num_heads"), 0, []
    old = _sizes(resize.node)
    for size in old:
        sizes.append(int(((kept >= start) & (kept < start + size)).sum()))
        start += size
    resize.set("num_heads", len({int(at) // (old[0] // count) for at in kept if at < old[0]}))
    resize.set("qkv_hidden_sizes", sizes)
    if not resize.node.attr("scale", 0.0):
        resize.set("scale", float(old[0] // count) ** -0.5)


ATTENTION = ChannelFlow(("Attention",), _attention, _shrink, domain="com.microsoft")
