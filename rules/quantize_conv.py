"""Where pairs go around a convolution."""

from onnxopt.rewrite import NodeView, QuantSpec, Role


def _pays(node: NodeView) -> str:
    weight = node.input(1)
    if weight is None or not weight.is_const:
        return "its weight is not constant"
    shape = weight.array.shape
    group = node.attr("group", 1)
    if group == 1 and shape[1] <= 4:
        return f"it reads {shape[1]} channels, and integer kernels lose on so few"
    if group > 1 and shape[1] > 1:
        return "grouped convolutions run at a quarter of the float speed"
    return ""


def _has_constant_weight(node: NodeView) -> str:
    weight = node.input(1)
    return "" if weight is not None and weight.is_const else "its weight is not constant"


CONV = QuantSpec(
    op_types=("Conv",),
    role=Role.PRODUCT,
    weight=1,
    weight_axis=lambda node: 0,
    bias=2,
    targets={
        "cpu": _pays,
        "openvino": _has_constant_weight,
        "tensorrt": _has_constant_weight,
        "qnn": _has_constant_weight,
        "generic": _has_constant_weight,
    },
    why="onnxruntime's CPU provider makes a QLinearConv of it",
)

CONV_TRANSPOSE = QuantSpec(
    op_types=("ConvTranspose",),
    role=Role.PRODUCT,
    weight=1,
    weight_axis=lambda node: 1,
    bias=2,
    targets={"openvino": _has_constant_weight, "qnn": _has_constant_weight},
    refused={"cpu": "onnxruntime's CPU provider has no integer kernel for ConvTranspose"},
    why="there is no QLinearConvTranspose",
)
