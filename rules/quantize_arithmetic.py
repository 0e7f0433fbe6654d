"""Where pairs go around sums, products, joins and means of activations."""

from onnxopt.rewrite import NodeView, QuantSpec, Role, always


def _same_shape(node: NodeView) -> str:
    left, right = node.input(0), node.input(1)
    if left is None or right is None:
        return "an operand is missing"
    if left.is_const or right.is_const:
        return ""
    return "" if left.same_shape(right) else "a gate that is broadcast is slower in integers"


ADD = QuantSpec(
    op_types=("Add",),
    role=Role.ARITHMETIC,
    data=(0, 1),
    targets=dict.fromkeys(("cpu", "openvino", "tensorrt", "qnn", "generic"), always),
    fused_sums=frozenset({"tensorrt"}),
    why="onnxruntime makes a QLinearAdd of it; a constant operand must be uint8 too",
)

MUL = QuantSpec(
    op_types=("Mul",),
    role=Role.ARITHMETIC,
    data=(0, 1),
    targets={"cpu": _same_shape, "openvino": always, "qnn": always, "generic": always},
    measured={"cpu": always},
    why="onnxruntime makes a QLinearMul of it",
)

CONCAT = QuantSpec(
    op_types=("Concat",),
    role=Role.ARITHMETIC,
    data=None,
    targets=dict.fromkeys(("cpu", "openvino", "qnn", "generic"), always),
    why="onnxruntime makes a QLinearConcat of it, which rescales for free; all inputs need pairs",
)

GLOBAL_AVERAGE_POOL = QuantSpec(
    op_types=("GlobalAveragePool",),
    role=Role.ARITHMETIC,
    targets=dict.fromkeys(("cpu", "openvino", "tensorrt", "qnn", "generic"), always),
    why="onnxruntime makes a QLinearGlobalAveragePool of it",
)

SIGMOID = QuantSpec(
    op_types=("Sigmoid",),
    role=Role.ARITHMETIC,
    targets={"qnn": always},
    refused={"cpu": "a table look-up is no faster than the float kernel"},
    measured={"cpu": always},
    why="QLinearSigmoid runs at 0.89x of float",
)

AVERAGE_POOL = QuantSpec(
    op_types=("AveragePool",),
    role=Role.ARITHMETIC,
    targets={"openvino": always, "tensorrt": always, "qnn": always},
    refused={"cpu": "the integer kernel runs at a tenth of the float speed"},
    why="QLinearAveragePool was measured at 0.11x",
)

SOFTMAX = QuantSpec(
    op_types=("Softmax",),
    role=Role.ARITHMETIC,
    targets={"qnn": always},
    refused={"cpu": "the integer kernel runs at a fifth of the float speed"},
    why="QLinearSoftmax was measured at 0.19x",
)
