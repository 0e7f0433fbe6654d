"""How channels pass operators that compute element by element."""

from onnxopt.rewrite import ChannelFlow, Flow, ops


def _unary(flow: Flow) -> None:
    flow.give(flow.all_of(0))


def _broadcast(flow: Flow) -> None:
    ranks = [flow.rank(index) for index in range(len(flow.node.inputs))]
    layouts = []
    for axis in range(1, max(ranks) + 1):
        met = [flow.of(index, -axis) for index, rank in enumerate(ranks) if rank >= axis]
        layouts.append(flow.equal(*met))
    flow.give(layouts[::-1])


UNARY = ChannelFlow(
    (*sorted(ops.ELEMENTWISE_UNARY), "Dropout", "CastLike", "Bernoulli"),
    _unary,
)
BROADCAST = ChannelFlow(
    tuple(sorted(ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC)),
    _broadcast,
)
