"""Why a product that only has its weight in codes is not joined with them to a MatMulNBits.

Found out on onnxruntime 1.31.1; tests/quantize/test_modes_weights.py holds every reason.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.units import ABSORBED, Unit, constant_codes, int_attribute, named, readers


def cut_behind(node: ir.Node) -> ir.Node | None:
    """The Relu or Clip behind a product, and behind the row that is added to it, if any."""
    value = named(node.outputs)[0]
    following = readers(value)
    if (
        len(following) == 1
        and ops.is_standard(following[0], "Add")
        and _adds_constant(following[0])
    ):
        following = readers(named(following[0].outputs)[0])
    found = following[0] if len(following) == 1 else None
    return found if found is not None and ops.is_standard(found, *ABSORBED) else None


def only_weight_coded(unit: Unit) -> bool:
    """Whether a product reads numbers, and its weight alone comes from constant codes."""
    return (
        ops.is_standard(unit.node, "Gemm", "MatMul")
        and len(unit.sources) > 1
        and unit.sources[0] is None
        and constant_codes(unit.sources[1]) is not None
    )


def shared_codes(unit: Unit) -> tuple[str, str] | None:
    """Codes that two nodes read are unpacked for both."""
    maker = unit.sources[1] if only_weight_coded(unit) else None
    codes = None if maker is None else maker.inputs[0]
    if maker is None or codes is None:
        return None
    if len(readers(codes)) == 1 and len(readers(named(maker.outputs)[0])) == 1:
        return None
    return "another node reads its codes too", "give each product codes of its own"


def cut_off(unit: Unit) -> tuple[str, str] | None:
    """onnxruntime takes a Relu or Clip for the end of a unit that a Q must follow."""
    activation = cut_behind(unit.node) if only_weight_coded(unit) else None
    if activation is None:
        return None
    return (
        f"the {activation.op_type} behind it keeps it from being joined with its codes",
        "write the Relu or Clip as Max and Min",
    )


def wrong_layout(unit: Unit) -> tuple[str, str] | None:
    """A transposed weight, or a bias that is no row."""
    if not only_weight_coded(unit) or unit.node.op_type != "Gemm":
        return None
    if int_attribute(unit.node, "transB", 0):
        return "its weight is transposed", "store the codes transposed, and set transB to 0"
    bias = unit.node.inputs[2] if len(unit.node.inputs) > 2 else None
    row = ops.constant(bias)
    if bias is None or (row is not None and len(row.shape) == 1):
        return None
    return "what it adds is no constant row", "write it as MatMul and Sum"


def _adds_constant(add: ir.Node) -> bool:
    return any(ops.is_constant(value) for value in named(add.inputs))


WEIGHT_ONLY = (
    ("shared-codes", shared_codes),
    ("cut-behind-codes", cut_off),
    ("layout-of-codes", wrong_layout),
)
"""Reasons by rule name, in the order in which to ask for them."""
