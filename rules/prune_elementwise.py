"""How channels pass operators that compute element by element."""

from onnxopt.rewrite import ChannelFlow, Flow, ops


def _dropout(flow: Flow) -> None:
    """As in training it draws numbers for every element, and others for fewer."""
    trains = flow.node.input(2)
    if trains is None or (trains.is_const and not trains.array.any()):
        _unary(flow)


def _unary(flow: Flow) -> None:
    flow.give(flow.all_of(0))
    # The mask of a Dropout.
    flow.give(flow.all_of(0), 1)


def _broadcast(flow: Flow) -> None:
    ranks = [flow.rank(index) for index in range(len(flow.node.inputs))]
    layouts = []
    for axis in range(1, max(ranks) + 1):
        met = [flow.of(index, -axis) for index, rank in enumerate(ranks) if rank >= axis]
        layouts.append(flow.equal(*met))
    flow.give(layouts[::-1])


def _old_broadcast(flow: Flow) -> None:
    """Before opset 7 the second operand could be put at an axis of the first."""
    if flow.node.opset >= 7 or not flow.node.attr("broadcast", 0):
        _broadcast(flow)
        return
    start = flow.node.attr("axis", flow.rank(0) - flow.rank(1))
    for axis in range(flow.rank(1)):
        flow.equal(flow.of(0, start + axis), flow.of(1, axis))
    flow.give(flow.all_of(0))


UNARY = ChannelFlow((*sorted(ops.ELEMENTWISE_UNARY), "CastLike"), _unary)
DROPOUT = ChannelFlow(("Dropout",), _dropout)
BROADCAST = ChannelFlow(
    tuple(sorted(ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC)), _old_broadcast
)
FUSED_UNARY = ChannelFlow(("Gelu", "QuickGelu"), _unary, domain="com.microsoft")
FUSED_BROADCAST = ChannelFlow(
    ("BiasAdd", "BiasGelu", "FastGelu"), _broadcast, domain="com.microsoft"
)
