"""How channels pass look-ups: fixed ones move them, an embedding's width passes through."""

import numpy as np

from onnxopt.rewrite import ChannelFlow, Flow, Layout, Resize


def _gather(flow: Flow) -> None:
    axis = flow.node.attr("axis", 0) % flow.rank(0)
    ids = flow.node.input(1)
    layout = flow.of(0, axis)
    places: list[Layout | None] = []
    if ids is None or not ids.is_const or layout.size is None:
        flow.keep(layout, "looks them up by numbers that it gets when it runs")
        places = [*flow.all_of(1)]
    elif not ids.array.shape:
        flow.keep_parts(layout, f"picks number {int(ids.array)} of them")
    else:
        places = [*flow.split(layout.take(ids.array.reshape(-1)), ids.array.shape)]
    others = [flow.of(0, each) for each in range(flow.rank(0))]
    flow.give([*others[:axis], *places, *others[axis + 1 :]])
    if axis == 0 and flow.rank(0) > 1:
        flow.writes(-1, (0, -1))


def _regather(resize: Resize) -> None:
    axis = resize.node.attr("axis", 0)
    x, ids = resize.node.input(0), resize.node.input(1)
    kept = resize.kept(0, axis)
    if x is None or ids is None or kept is None or not ids.is_const:
        return
    size, rank = x.dim(axis) or 0, ids.array.ndim
    new = np.full(size, -1)
    new[kept] = np.arange(len(kept))
    chosen = ids.array
    for each in range(rank):
        left = resize.kept_out(axis % len(x.shape or ()) + each)
        chosen = chosen if left is None else np.take(chosen, left, axis=each)
    resize.put(1, new[chosen].astype(ids.array.dtype))


GATHER = ChannelFlow(("Gather",), _gather, _regather)
