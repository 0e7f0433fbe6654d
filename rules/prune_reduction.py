"""How channels pass what computes along an axis: that axis stays, the others pass."""

from onnxopt.rewrite import ChannelFlow, Flow


def _keep(flow: Flow, axis: int) -> None:
    flow.keep(flow.of(0, axis), "computes along them, so that one less would change the result")


def _softmax(flow: Flow) -> None:
    old = flow.node.opset < 13
    axis = flow.node.attr("axis", 1 if old else -1) % flow.rank(0)
    for each in range(axis, flow.rank(0)) if old else (axis,):
        _keep(flow, each)
    flow.give(flow.all_of(0))


def _along(flow: Flow) -> None:
    axis = flow.node.attr("axis", -1)
    if flow.node.op_type == "CumSum":
        found = flow.ints(1)
        if found is None or found[0] is None:
            return
        axis = found[0]
    _keep(flow, axis)
    flow.give(flow.all_of(0))


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


def _several(flow: Flow) -> None:
    """Operators that mix the places of some axes and leave the others alone."""
    defaults = {"MeanVarianceNormalization": [0, 2, 3], "Trilu": [-2, -1]}
    axes = defaults.get(flow.node.op_type) or [
        flow.node.attr(name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))
    ]
    for axis in flow.node.attr("axes") or axes:
        _keep(flow, axis)
    flow.give(flow.all_of(0))


SOFTMAX = ChannelFlow(("Hardmax", "LogSoftmax", "Softmax"), _softmax)
ALONG = ChannelFlow(("CumSum", "LpNormalization"), _along)
SEVERAL = ChannelFlow(("MeanVarianceNormalization", "ReverseSequence", "Trilu"), _several)
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
