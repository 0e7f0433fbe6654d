"""What onnxruntime's CPU provider runs in integers between Q/DQ pairs, as a table.

Measured on onnxruntime 1.31.1; tests/quantize/test_placement.py holds every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["weighted", "arithmetic", "moving", "reading"]


@dataclass(frozen=True, slots=True)
class Placement:
    """How an operator gets an integer kernel.

    `kind` is "weighted" (a product with a weight), "arithmetic" (numbers are computed anew),
    "moving" (elements are moved, so that codes can be moved instead) or "reading" (codes have the
    order of the numbers). `data` are the inputs that must come from a DQ, None for all of them.
    `output` tells whether a Q must follow.
    """

    kernel: str
    kind: Kind
    data: tuple[int, ...] | None = (0,)
    output: bool = True


def _moving(*op_types: str) -> dict[str, Placement]:
    return {op_type: Placement(op_type, "moving") for op_type in op_types}


PLACEMENTS: dict[str, Placement] = {
    "Conv": Placement("QLinearConv", "weighted", (0, 1, 2)),
    "Gemm": Placement("QGemm", "weighted", (0, 1, 2), output=False),
    "MatMul": Placement("QLinearMatMul", "weighted", (0, 1), output=False),
    "Add": Placement("QLinearAdd", "arithmetic", (0, 1)),
    "Mul": Placement("QLinearMul", "arithmetic", (0, 1)),
    "AveragePool": Placement("QLinearAveragePool", "arithmetic"),
    "GlobalAveragePool": Placement("QLinearGlobalAveragePool", "arithmetic"),
    "LeakyRelu": Placement("QLinearLeakyRelu", "arithmetic"),
    "Sigmoid": Placement("QLinearSigmoid", "arithmetic"),
    "Softmax": Placement("QLinearSoftmax", "arithmetic"),
    "Concat": Placement("QLinearConcat", "arithmetic", None),
    "Where": Placement("QLinearWhere", "arithmetic", (1, 2)),
    **_moving("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "MaxPool"),
    **_moving("ReduceMax", "ReduceMin", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile"),
    **_moving("Transpose", "Unsqueeze"),
    "ArgMax": Placement("ArgMax", "reading", output=False),
}
"""By operator of the standard domain; what is not here never runs in integers."""

MOVES_ANY_CODE = frozenset(
    {
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""What also moves codes of 16 bits, those of constants aside."""

INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "NhwcMaxPool",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
        "QOrderedMatMul",
        "GatherBlockQuantized",
    }
)
"""Kernels that compute with codes, besides those whose names start with QLinear."""

MIXED_OUTPUT = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QMoE",
    }
)
"""Integer kernels whose output is no code of 8 bits: sums of products, or numbers."""

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Which input is the weight."""


def is_integer_kernel(op_type: str) -> bool:
    """Whether a kernel of this name always computes with codes."""
    return op_type in INTEGER_KERNELS or op_type.startswith("QLinear")


def weight_axis(op_type: str, rank: int, transposed: bool = False) -> int | None:
    """The axis of a weight along which scales may differ; None where none may.

    `transposed` is transB of a Gemm. Scales along another axis are silently misread by
    onnxruntime's integer kernels, or fail when the model runs.
    """
    if op_type == "Conv":
        return 0
    if op_type == "Gemm":
        return 0 if transposed else 1
    if op_type == "MatMul":
        return rank - 1
    return None
