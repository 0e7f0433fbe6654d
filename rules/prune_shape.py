"""How channels pass operators that permute, drop or merge axes."""

from onnxopt.rewrite import ChannelFlow, Flow


def _transpose(flow: Flow) -> None:
    order = flow.node.attr("perm") or range(flow.rank(0))[::-1]
    flow.give([flow.of(0, axis) for axis in order])


def _squeeze(flow: Flow) -> None:
    axes = flow.node.axes()
    if axes is None:
        axes = [axis for axis, layout in enumerate(flow.all_of(0)) if layout.size == 1]
    gone = {axis % flow.rank(0) for axis in axes}
    layouts = flow.all_of(0)
    flow.give([layout for axis, layout in enumerate(layouts) if axis not in gone])


def _unsqueeze(flow: Flow) -> None:
    axes = flow.node.axes() or []
    rank = flow.rank(0) + len(axes)
    new, old = {axis % rank for axis in axes}, iter(flow.all_of(0))
    flow.give([None if axis in new else next(old) for axis in range(rank)])


def _flatten(flow: Flow) -> None:
    axis = flow.node.attr("axis", 1)
    axis += flow.rank(0) if axis < 0 else 0
    layouts = flow.all_of(0)
    flow.give([flow.merge(layouts[:axis]) if axis else None, flow.merge(layouts[axis:])])


def _shape(flow: Flow) -> None:
    """Who reads the numbers answers for them."""
    flow.all_of(0)
    flow.give([None])


FLATTEN = ChannelFlow(("Flatten",), _flatten)
TRANSPOSE = ChannelFlow(("Transpose",), _transpose)
SQUEEZE = ChannelFlow(("Squeeze",), _squeeze)
UNSQUEEZE = ChannelFlow(("Unsqueeze",), _unsqueeze)
SHAPE = ChannelFlow(("Shape",), _shape)
