"""How channels pass convolutions: plain, grouped, depthwise and transposed."""

from onnxopt.rewrite import ChannelFlow, Flow, Resize


def _conv(flow: Flow) -> None:
    _convolution(flow, flow.of(1, 0), flow.of(1, 1), own=1)


def _fused_conv(flow: Flow) -> None:
    """com.microsoft.FusedConv, which may add another image of the size of the output."""
    _conv(flow)
    if flow.rank(3):
        flow.equal(flow.of(1, 0), flow.of(3, 1))


def _conv_transpose(flow: Flow) -> None:
    _convolution(flow, flow.of(1, 1), flow.of(1, 0), own=0)


def _convolution(flow: Flow, made, read, own: int) -> None:
    """`own` is the axis of the weight that the input's channels are on."""
    groups = flow.node.attr("group", 1)
    x = flow.of(0, 1)
    if groups == 1:
        out, inner = made, flow.equal(x, read)
    elif own:
        out, inner = made, flow.equal(flow.grouped(x, made, groups), read)
    else:
        flow.equal(x, read)
        first, inner = flow.split(x, (groups, x.size // groups))
        out = flow.merge([first, made])
    if flow.rank(2):
        flow.equal(out, flow.of(2, 0))
    flow.give([flow.of(0, 0), out, *(None for _ in range(flow.rank(0) - 2))])
    flow.writes(1, (1, 1 - own), (2, 0))
    if inner.size != 1:
        flow.reads(0, 1, (1, own))


def _regroup(resize: Resize) -> None:
    """As many groups as channels are left for, each with as many inputs as its weight has now."""
    groups = resize.node.attr("group", 1)
    kept = resize.kept(0, 1)
    x = resize.node.input(0)
    if groups > 1 and kept is not None and x is not None:
        size = (x.dim(1) or 0) // groups
        resize.set("group", len({int(i) // size for i in kept}))


CONV = ChannelFlow(("Conv",), _conv, _regroup)
FUSED_CONV = ChannelFlow(("FusedConv",), _fused_conv, _regroup, domain="com.microsoft")
CONV_TRANSPOSE = ChannelFlow(("ConvTranspose",), _conv_transpose, _regroup)
