"""How channels pass matrix products."""

from onnxopt.rewrite import ChannelFlow, Flow


def _gemm(flow: Flow) -> None:
    row = 1 if flow.node.attr("transA") else 0
    column = 0 if flow.node.attr("transB") else 1
    flow.equal(flow.of(0, 1 - row), flow.of(1, 1 - column))
    layouts = [flow.of(0, row), flow.of(1, column)]
    for axis in range(1, flow.rank(2) + 1):
        flow.equal(layouts[-axis], flow.of(2, -axis))
    flow.give(layouts)
    flow.writes(1, (1, column), (2, -1))
    flow.reads(0, 1 - row, (1, 1 - column))


GEMM = ChannelFlow(("Gemm",), _gemm)
