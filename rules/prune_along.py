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
