"""Where pairs go around operators that move numbers without computing."""

from onnxopt.rewrite import NodeView, QuantSpec, Role, always

_ALL = ("cpu", "openvino", "tensorrt", "qnn", "generic")


def _nearest(node: NodeView) -> str:
    return "" if node.attr("mode") == "nearest" else "only the nearest mode keeps integers"


MOVES = QuantSpec(
    op_types=(
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ),
    role=Role.MOVE,
    targets=dict.fromkeys(_ALL, always),
    why="onnxruntime drops the pairs around it where both sides share scale and zero point",
)

MAX_POOL = QuantSpec(
    op_types=("MaxPool",),
    role=Role.MOVE,
    targets=dict.fromkeys(_ALL, always),
    why="the largest of the codes is the code of the largest; from opset 12 on",
)

RESIZE = QuantSpec(
    op_types=("Resize",),
    role=Role.MOVE,
    targets=dict.fromkeys(_ALL, _nearest),
    why="onnxruntime keeps integers in the nearest mode only",
)
