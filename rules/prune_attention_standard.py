"""How heads and their width pass ONNX's own Attention, with heads apart or in one axis."""

from onnxopt_rules.prune_heads import attend, heads, named, write_down

from onnxopt.rewrite import ChannelFlow, Flow, Resize


def _attention(flow: Flow) -> None:
    apart = flow.rank(0) == 4
    if any(flow.rank(index) for index in (4, 5)):
        return
    if apart:
        parts = [named(flow, flow.of(index, 1), flow.of(index, 3)) for index in (0, 1, 2)]
    else:
        query, key = flow.node.attr("q_num_heads"), flow.node.attr("kv_num_heads")
        counts = enumerate((query, key, key))
        parts = [heads(flow, flow.of(index, 2), count) for index, count in counts]
    outer, width = attend(flow, *parts)
    if flow.rank(3) > 2:
        flow.equal(outer, flow.of(3, -3))
    for index, part in enumerate(parts[1:]):
        flow.give([None, part[0], None, part[1]], 1 + index)
    flow.give([None, outer, None, width] if apart else [None, None, flow.merge([outer, width])])
    flow.reads(0, -1)


def _shrink(resize: Resize) -> None:
    x = resize.node.input(0)
    shape = () if x is None or x.shape is None else x.shape
    size = (shape[-1] if shape else None) or 0
    if len(shape) == 4 and isinstance(size, int):
        write_down(resize, 0, size, {})
    elif isinstance(size, int):
        width = size // resize.node.attr("q_num_heads")
        write_down(resize, 0, width, {"q_num_heads": 0, "kv_num_heads": 1})


ATTENTION = ChannelFlow(("Attention",), _attention, _shrink)
