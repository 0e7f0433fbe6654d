"""Where pairs go around matrix products."""

from onnxopt.rewrite import NodeView, QuantSpec, Role


def _has_constant_weight(node: NodeView) -> str:
    weight = node.input(1)
    if weight is None or not weight.is_const:
        return "both operands are computed"
    return "" if weight.rank == 2 else "its weight is not a matrix"


def _is_plain(node: NodeView) -> str:
    if node.attr("alpha") != 1.0 or (node.input(2) is not None and node.attr("beta") != 1.0):
        return "alpha or beta is not one"
    if node.attr("transA"):
        return "its left operand is transposed"
    return _has_constant_weight(node)


_ALL = ("cpu", "openvino", "tensorrt", "qnn", "generic")

MATMUL = QuantSpec(
    op_types=("MatMul",),
    role=Role.PRODUCT,
    weight=1,
    weight_axis=lambda node: 1,
    targets=dict.fromkeys(_ALL, _has_constant_weight),
    float_output=True,
    why="onnxruntime makes a QLinearMatMul or a MatMulIntegerToFloat of it",
)

GEMM = QuantSpec(
    op_types=("Gemm",),
    role=Role.PRODUCT,
    weight=1,
    weight_axis=lambda node: 0 if node.attr("transB") else 1,
    bias=2,
    targets=dict.fromkeys(_ALL, _is_plain),
    float_output=True,
    why="onnxruntime makes a QGemm of it; its bias must be int32 with scale x times scale w",
)
