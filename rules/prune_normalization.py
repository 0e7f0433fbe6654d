"""How channels pass normalizations: where the statistics are of one channel, it may go."""

from onnxopt.rewrite import ChannelFlow, Flow


def _per_channel(flow: Flow) -> None:
    parameters = [flow.of(index, 0) for index in range(1, len(flow.node.inputs))]
    flow.equal(flow.of(0, 1), *parameters)
    flow.give(flow.all_of(0))


PER_CHANNEL = ChannelFlow(("BatchNormalization", "InstanceNormalization"), _per_channel)
