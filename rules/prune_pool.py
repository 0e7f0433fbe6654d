"""How channels pass what works on each channel of an image alone."""

from onnxopt.rewrite import ChannelFlow, Flow


def _pool(flow: Flow) -> None:
    outputs = [output for output in flow.node.outputs if output.name]
    if len(outputs) > 1:
        flow.keep(flow.of(0, 1), "counts positions across channels in its second output")
    flow.give([flow.of(0, 0), flow.of(0, 1), *(None for _ in range(flow.rank(0) - 2))])


POOL = ChannelFlow(
    (
        "AveragePool",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "LpPool",
        "MaxPool",
    ),
    _pool,
)
