"""How channels pass operators that join axes or cut them up."""

import itertools

import numpy as np

from onnxopt.rewrite import ChannelFlow, Flow, Resize, join


def _concat(flow: Flow) -> None:
    count, rank = len(flow.node.inputs), flow.rank(0)
    axis = flow.node.attr("axis", 1) % rank
    flow.give(
        [
            join([flow.of(index, each) for index in range(count)])
            if each == axis
            else flow.equal(*(flow.of(index, each) for index in range(count)))
            for each in range(rank)
        ]
    )


def _split(flow: Flow) -> None:
    axis = flow.node.attr("axis", 0) % flow.rank(0)
    sizes = [flow.out_sizes(index)[axis] for index in range(len(flow.node.outputs))]
    known = [size for size in sizes if size is not None]
    if flow.of(0, axis).size is None or len(known) < len(sizes):
        flow.keep(flow.of(0, axis), "splits them at places that are not known")
        known = [0] * len(sizes)
    ends = list(itertools.accumulate(known))
    for index, (size, end) in enumerate(zip(known, ends, strict=True)):
        part = flow.of(0, axis).take(slice(end - size, end))
        layouts = [part if each == axis else flow.of(0, each) for each in range(flow.rank(0))]
        flow.give(layouts if any(known) else [*layouts[:axis], None, *layouts[axis + 1 :]], index)


def _resplit(resize: Resize) -> None:
    x = resize.node.input(0)
    axis = resize.node.attr("axis", 0)
    if x is None or resize.kept(0, axis) is None:
        return
    sizes = []
    for index, output in enumerate(resize.node.outputs):
        kept = resize.kept_out(axis, index)
        sizes.append((output.dim(axis) or 0) if kept is None else len(kept))
    resize.drop("num_outputs")
    if resize.node.opset >= 13:
        resize.put(1, np.array(sizes, np.int64))
    else:
        resize.set("split", sizes)


CONCAT = ChannelFlow(("Concat",), _concat)
SPLIT = ChannelFlow(("Split",), _split, _resplit)
