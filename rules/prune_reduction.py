"""How channels pass reductions: the axis that is reduced stays, the others pass."""

from onnxopt.rewrite import ChannelFlow, Flow


def _keep(flow: Flow, axis: int) -> None:
    flow.keep(flow.of(0, axis), "computes along them, so that one less would change the result")


def _top(flow: Flow) -> None:
    axis = flow.node.attr("axis", -1) % flow.rank(0)
    _keep(flow, axis)
    layouts = [None if each == axis else flow.of(0, each) for each in range(flow.rank(0))]
    flow.give(layouts)
    flow.give(layouts, 1)


def _arg(flow: Flow) -> None:
    _reduced(flow, [flow.node.attr("axis", 0)])


def _reduce(flow: Flow) -> None:
    axes = flow.node.axes()
    if not axes and flow.node.attr("noop_with_empty_axes", 0):
        flow.give(flow.all_of(0))
        return
    _reduced(flow, axes or list(range(flow.rank(0))))


def _reduced(flow: Flow, axes: list[int]) -> None:
    gone = {axis % flow.rank(0) for axis in axes}
    for axis in gone:
        _keep(flow, axis)
    keep = flow.node.attr("keepdims", 1)
    axes = [axis for axis in range(flow.rank(0)) if keep or axis not in gone]
    flow.give([None if axis in gone else flow.of(0, axis) for axis in axes])


TOP = ChannelFlow(("TopK",), _top)
ARG = ChannelFlow(("ArgMax", "ArgMin"), _arg)
REDUCE = ChannelFlow(
    (
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ),
    _reduce,
)
