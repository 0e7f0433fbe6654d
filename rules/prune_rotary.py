"""How heads and their width pass rotary embeddings, which turn the width in pairs."""

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


def _standard(flow: Flow) -> None:
    _rotary(flow, (1, 2))


def _fused(flow: Flow) -> None:
    _rotary(flow, (2, 3))


def _rotary(flow: Flow, caches: tuple[int, int]) -> None:
    count = flow.node.attr("num_heads", 0)
    layouts: list[Layout | None] = [None, None, flow.of(0, -1)]
    if flow.rank(0) == 4:
        width = flow.of(0, 3)
        layouts = [None, flow.of(0, 1), None, width]
    elif count and flow.of(0, 2).size is not None:
        outer, width = flow.split(flow.of(0, 2), (count, (flow.of(0, 2).size or 0) // count))
        flow.label(outer, "heads")
    else:
        return
    for cache in caches:
        for axis in range(flow.rank(cache) - 1):
            flow.keep(flow.of(cache, axis), "looks angles up by position")
    if flow.node.attr("rotary_embedding_dim", 0) or width.size is None:
        flow.keep(width, "turns some of them only")
    else:
        half = width.size // 2
        paired = flow.node.attr("interleaved", 0)
        parts = flow.split(width, (half, 2) if paired else (2, half))
        flow.keep_parts(parts[1 if paired else 0], "turns these pairs")
        flow.equal(parts[0 if paired else 1], *(flow.of(cache, -1) for cache in caches))
    flow.give(layouts)


def _recount(resize: Resize) -> None:
    kept, x = resize.kept(0, -1), resize.node.input(0)
    count = resize.node.attr("num_heads", 0)
    if kept is not None and x is not None and x.rank == 3 and count:
        width = (x.dim(2) or 0) // count
        resize.set("num_heads", len({int(at) // width for at in kept}))


STANDARD = ChannelFlow(("RotaryEmbedding",), _standard, _recount)
FUSED = ChannelFlow(("RotaryEmbedding",), _fused, _recount, domain="com.microsoft")
