"""How channels pass normalizations: where the statistics are of one channel, it may go."""

from onnxopt.rewrite import ChannelFlow, Flow, Resize

_MEAN = "averages over them, so that one less would change all others"


def _per_channel(flow: Flow) -> None:
    parameters = [flow.of(index, 0) for index in range(1, len(flow.node.inputs))]
    flow.equal(flow.of(0, 1), *parameters)
    _give_channels(flow)


def _give_channels(flow: Flow) -> None:
    """The statistics are of all places of an image."""
    if flow.node.op_type == "BatchNormalization":
        flow.give(flow.all_of(0))
    else:
        flow.give([flow.of(0, 0), flow.of(0, 1), *(None for _ in range(flow.rank(0) - 2))])


def _group(flow: Flow) -> None:
    """Whole groups may go. The scale and bias are of groups to opset 20, of channels after."""
    groups, x = flow.node.attr("num_groups"), flow.of(0, 1)
    if x.size is None:
        return
    outer, inner = flow.split(x, (groups, x.size // groups))
    flow.keep(inner, _MEAN)
    per = outer if flow.of(1, 0).size == groups else x
    flow.equal(per, flow.of(1, 0), flow.of(2, 0))
    _give_channels(flow)


def _regroup(resize: Resize) -> None:
    kept, x = resize.kept(0, 1), resize.node.input(0)
    if kept is not None and x is not None:
        groups = resize.node.attr("num_groups")
        size = (x.dim(1) or 0) // groups
        resize.set("num_groups", len({int(index) // size for index in kept}))


def _layer(flow: Flow) -> None:
    first = flow.node.attr("axis", -1) % flow.rank(0) if flow.rank(0) else 0
    _normalized(flow, first, range(1, len(flow.node.inputs)))


def _skip(flow: Flow) -> None:
    for axis in range(1, flow.rank(0) + 1):
        flow.equal(flow.of(0, -axis), *([flow.of(1, -axis)] if flow.rank(1) >= axis else []))
    _normalized(flow, flow.rank(0) - 1, range(2, len(flow.node.inputs)))
    flow.give(flow.all_of(0), 3)


def _normalized(flow: Flow, first: int, parameters: range) -> None:
    rank = flow.rank(0)
    for axis in range(first, rank):
        flow.keep(flow.of(0, axis), _MEAN)
        for index in parameters:
            if flow.rank(index) >= rank - axis:
                flow.equal(flow.of(0, axis), flow.of(index, axis - rank))
    flow.give(flow.all_of(0))
    for statistic in (1, 2):
        flow.give([*flow.all_of(0)[:first], *(None for _ in range(first, rank))], statistic)


def _local_response(flow: Flow) -> None:
    flow.keep(flow.of(0, 1), "sums over neighbouring ones")
    flow.give(flow.all_of(0))


PER_CHANNEL = ChannelFlow(("BatchNormalization", "InstanceNormalization"), _per_channel)
GROUP = ChannelFlow(("GroupNormalization",), _group, _regroup)
LAYER = ChannelFlow(
    ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer
)
SKIP_LAYER = ChannelFlow(
    ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip, domain="com.microsoft"
)
LOCAL_RESPONSE = ChannelFlow(("LRN",), _local_response)
