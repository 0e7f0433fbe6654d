"""How channels pass operators that give the same elements another shape."""

from onnxopt.rewrite import ChannelFlow, Flow


def _flatten(flow: Flow) -> None:
    axis = flow.node.attr("axis", 1)
    axis += flow.rank(0) if axis < 0 else 0
    layouts = flow.all_of(0)
    flow.give([flow.merge(layouts[:axis]) if axis else None, flow.merge(layouts[axis:])])


FLATTEN = ChannelFlow(("Flatten",), _flatten)
