"""How channels pass quantization: scales and zero points per channel go with them."""

from onnxopt.rewrite import ChannelFlow, Flow


def _linear(flow: Flow) -> None:
    rank, scales = flow.rank(0), flow.rank(1)
    block = flow.node.attr("block_size", 0)
    axis = flow.node.attr("axis", 1)
    if scales == 1 and flow.of(1, 0).size != 1:
        parts = [flow.of(index, 0) for index in (1, 2) if flow.rank(index)]
        flow.equal(flow.of(0, axis), *parts)
    elif scales == rank and block:
        for each in range(rank):
            x = flow.of(0, each)
            if each == axis % rank and x.size is not None:
                if x.size % block:
                    return
                x, inner = flow.split(x, (x.size // block, block))
                flow.keep_parts(inner, "gives a block of them one scale")
            flow.equal(x, *(flow.of(index, each) for index in (1, 2) if flow.rank(index)))
    elif scales > 1:
        return
    flow.give(flow.all_of(0))


LINEAR = ChannelFlow(("DequantizeLinear", "QuantizeLinear"), _linear)
FUSED_LINEAR = ChannelFlow(("DequantizeLinear", "QuantizeLinear"), _linear, domain="com.microsoft")
