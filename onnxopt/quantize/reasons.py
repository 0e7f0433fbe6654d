"""Why a node between Q/DQ pairs stays float on onnxruntime's CPU provider: one function a reason.

The functions are asked in order; the first that has a word for the node names the reason. Facts
from tests/quantize/test_placement.py and from reading which patterns onnxruntime 1.31.1 selects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.intent import (
    activation_codings,
    activation_makers,
    all_codings,
    data_inputs,
    ends,
    is_absorbed,
    is_quantized_by_runtime,
    moves_signed,
    needs_output,
    placement_of,
)
from onnxopt.quantize.placement import MOVES_ANY_CODE, WEIGHT_INPUT
from onnxopt.quantize.products import bias_scale_error, joined_product, right_axis, trapped_product
from onnxopt.quantize.reasons_weights import WEIGHT_ONLY
from onnxopt.quantize.units import (
    ABSORBED,
    Unit,
    coding_of,
    constant_codes,
    float_attribute,
    int_attribute,
    is_constant,
    is_quantize,
    named,
    readers,
    unit_of,
)


@dataclass(frozen=True, slots=True)
class Why:
    """A reason: the rule's name, what is in the way, and what would change it."""

    rule: str
    reason: str
    fix: str


Ask = Callable[[Unit], "tuple[str, str] | None"]
_ASKED: list[tuple[str, Ask]] = []


def _rule(name: str) -> Callable[[Ask], Ask]:
    def add(ask: Ask) -> Ask:
        _ASKED.append((name, ask))
        return ask

    return add


def rule_names() -> tuple[str, ...]:
    """All names that `why` gives."""
    return (*(name for name, _ in _ASKED), "declined")


def blocked(unit: Unit) -> Why | None:
    """What keeps the node float, as far as the graph shows it; None where nothing does."""
    product = joined_product(unit)
    if product is not None:
        return blocked(unit_of(product))
    return None if _has_weight_kernel(unit) else _first(unit)


def _first(unit: Unit) -> Why | None:
    for name, ask in _ASKED:
        answer = ask(unit)
        if answer is not None:
            return Why(name, *answer)
    return None


def why(unit: Unit) -> Why:
    """Why the node stays float."""
    found = blocked(unit) or _first(unit)
    if found is not None:
        return found
    types = ", ".join(coding.dtype.name.lower() for coding in all_codings(unit))
    return Why(
        "declined",
        f"the provider has no integer {unit.node.op_type} for codes of types {types}, as this node"
        " uses them",
        "leave the pairs around it out",
    )


@_rule("no-integer-kernel")
def _no_kernel(unit: Unit) -> tuple[str, str] | None:
    node = unit.node
    if placement_of(node) is not None:
        return None
    if node.op_type in ABSORBED:
        return None
    fix = "leave the pairs around it out"
    if node.op_type == "BatchNormalization":
        fix = "fold it into the convolution before it"
    return f"the CPU provider has no integer kernel for {node.op_type}", fix


@_rule("opset")
def _opset(unit: Unit) -> tuple[str, str] | None:
    graph = unit.node.graph
    version = graph.opset_imports.get("") if graph is not None else None
    if unit.node.op_type != "MaxPool" or version is None or version >= 12:
        return None
    return f"MaxPool of opset {version} takes no codes", "raise the model's opset to 13"


@_rule("activation-alone")
def _activation_alone(unit: Unit) -> tuple[str, str] | None:
    if unit.node.op_type not in ABSORBED:
        return None
    return (
        f"{unit.node.op_type} has no integer kernel: it only runs as part of the Q after it,"
        " where its bounds are those of the Q's range",
        "take the pair before it away, and let the Q after it start at the lower bound",
    )


@_rule("scale-type")
def _scale_type(unit: Unit) -> tuple[str, str] | None:
    for coding in all_codings(unit):
        if coding.number is not ir.DataType.FLOAT:
            return (
                f"the numbers are {coding.number.name.lower()}; integer kernels take float32",
                "quantize the float32 model",
            )
    return None


@_rule("code-type")
def _code_type(unit: Unit) -> tuple[str, str] | None:
    if unit.node.op_type in MOVES_ANY_CODE and not is_constant(unit.node.inputs[0]):
        return None
    for coding in activation_codings(unit):
        if not coding.is_byte:
            return (
                f"the codes are {coding.dtype.name.lower()}; the kernels take 8 bits",
                "use uint8 for activations",
            )
    return None


@_rule("computed-scale")
def _computed_scale(unit: Unit) -> tuple[str, str] | None:
    if all(coding.constant for coding in all_codings(unit)):
        return None
    return "a scale or zero point is computed and no constant", "make it an initializer"


@_rule("activation-per-channel")
def _per_channel(unit: Unit) -> tuple[str, str] | None:
    if all(coding.per_tensor for coding in activation_codings(unit)):
        return None
    return "an activation has a scale for each channel", "quantize activations per tensor"


@_rule("matmul-add")
def _matmul_add(unit: Unit) -> tuple[str, str] | None:
    product = trapped_product(unit.node)
    if product is None:
        return None
    fix = "make the added constant int32 behind a DQ with the product of both scales as its scale"
    return "onnxruntime joins MatMul and Add to a Gemm, and the bias keeps that float", fix


@_rule("weight-only")
def _weight_only(unit: Unit) -> tuple[str, str] | None:
    node = unit.node
    place = WEIGHT_INPUT.get(node.op_type)
    if place is None or len(unit.sources) <= place or unit.sources[0] is not None:
        return None
    weight = unit.sources[place]
    if weight is None:
        return None
    if node.op_type not in ("MatMul", "Gemm"):
        return (
            "only its weight is quantized, and the weight becomes float again in every run",
            "quantize its input too, or make the weight float",
        )
    coding, codes = coding_of(weight), constant_codes(weight)
    if codes is None:
        return "its weight is no constant", "quantize its other input too"
    block, axis = coding.block, coding.axis
    if block and (axis != 0 or block < 16 or block & (block - 1)):
        return (
            f"its weight is in blocks of {block} along axis {int_attribute(weight, 'axis', 1)}",
            "use blocks of 16 or a higher power of 2 along axis 0",
        )
    if axis not in (None, 1) and not block:
        return f"the scales of its weight run along axis {axis}", "let them run along axis 1"
    return None


_ASKED.extend(WEIGHT_ONLY)


def _has_weight_kernel(unit: Unit) -> bool:
    """Whether the node is a product that takes numbers and the codes of its weight."""
    if unit.node.op_type not in ("MatMul", "Gemm") or len(unit.sources) < 2:
        return False
    alone = unit.sources[0] is None and constant_codes(unit.sources[1]) is not None
    return alone and _weight_only(unit) is None


@_rule("float-input")
def _float_input(unit: Unit) -> tuple[str, str] | None:
    node = unit.node
    for i in data_inputs(node):
        value = node.inputs[i]
        if unit.sources[i] is not None or value is None:
            continue
        what = f"input {i} ({value.name})"
        if not ops.is_constant(value):
            return f"{what} is float", "put a pair on it, or take those around the node away"
        if is_quantized_by_runtime(unit, i):
            continue
        return (
            f"{what} is a float constant",
            "quantize the constant: int32 for a bias, uint8 for an operand",
        )
    return None


@_rule("graph-output")
def _graph_output(unit: Unit) -> tuple[str, str] | None:
    if not needs_output(unit) or not any(value.is_graph_output() for value in ends(unit)):
        return None
    return "an output is also a graph output", "let the graph output be what the DQ gives"


@_rule("two-quantizers")
def _two_quantizers(unit: Unit) -> tuple[str, str] | None:
    for value in unit.end:
        if sum(is_quantize(each) for each in readers(value)) > 1:
            return (
                "two different Q read its output",
                "let one Q read it, and several DQ read that",
            )
    return None


@_rule("activation-between")
def _activation_between(unit: Unit) -> tuple[str, str] | None:
    activation = unit.activation
    if activation is not None and unit.sinks and not is_absorbed(activation, unit.sinks[0]):
        return (
            f"the {activation.op_type} before the Q cuts more than the Q does",
            "let the Q's range end where the activation does (zero point at the lowest code)",
        )
    if unit.sinks or not needs_output(unit):
        return None
    following = [each for value in named(unit.node.outputs) for each in readers(value)]
    if len(following) == 1 and any(
        is_quantize(each) for value in named(following[0].outputs) for each in readers(value)
    ):
        return (
            f"{following[0].op_type} between it and the Q is not absorbed",
            f"put a pair between it and {following[0].op_type}",
        )
    return None


@_rule("no-quantizer-after")
def _no_quantizer(unit: Unit) -> tuple[str, str] | None:
    if unit.sinks or not needs_output(unit):
        return None
    return "no Q reads its output", "put a pair on its output, or take those on its inputs away"


@_rule("float-reader")
def _float_reader(unit: Unit) -> tuple[str, str] | None:
    if not unit.sinks:
        return None
    for value in unit.end:
        others = [each for each in readers(value) if not is_quantize(each)]
        if others or len({each for each in readers(value) if is_quantize(each)}) != 1:
            who = others[0].op_type if others else "nothing"
            return f"{who} reads its output beside the Q", "let it read what the DQ gives"
    return None


@_rule("signed-activations")
def _signed(unit: Unit) -> tuple[str, str] | None:
    stuck, free = [], 0
    for maker in activation_makers(unit):
        codes = maker.outputs[0] if is_quantize(maker) else maker.inputs[0]
        if coding_of(maker).dtype is not ir.DataType.INT8:
            free += 1
        elif ops.constant(codes) is None:
            reason = moves_signed(codes)
            stuck += [reason] if reason else []
            free += not reason
    # onnxruntime turns what it can to uint8; a kernel takes either type, and not both.
    if not stuck or not (free or unit.node.op_type in ("Conv", "MatMul")):
        return None
    return f"its activations are int8: {stuck[0]}", "use uint8 for activations"


@_rule("signed-constant")
def _signed_constant(unit: Unit) -> tuple[str, str] | None:
    placement = placement_of(unit.node)
    if placement is None or placement.kind == "weighted":
        return None
    for i in data_inputs(unit.node):
        maker = unit.sources[i]
        if constant_codes(maker) is None or maker is None:
            continue
        if coding_of(maker).dtype is ir.DataType.INT8:
            return "a constant operand is int8", "quantize the constant to uint8"
    return None


@_rule("bias-scale")
def _bias_scale(unit: Unit) -> tuple[str, str] | None:
    if bias_scale_error(unit) is None:
        return None
    return (
        "the scale of its bias is not the product of the scales of input and weight",
        "quantize the bias to int32 at that scale, with zero point 0",
    )


@_rule("gemm-factor")
def _gemm_factor(unit: Unit) -> tuple[str, str] | None:
    if unit.node.op_type != "Gemm":
        return None
    alpha, beta = (float_attribute(unit.node, name, 1.0) for name in ("alpha", "beta"))
    if alpha == 1 and (beta == 1 or len(named(unit.node.inputs)) < 3):
        return None
    return "its alpha or beta is not 1", "multiply the factor into the weight or bias"


@_rule("resize-mode")
def _resize_mode(unit: Unit) -> tuple[str, str] | None:
    mode = unit.node.attributes.get("mode")
    if unit.node.op_type != "Resize" or mode is None or mode.as_string() == "nearest":
        return None
    return f"only a nearest Resize moves codes, and this one is {mode.as_string()}", (
        "leave the pairs around it out"
    )


@_rule("scales-differ")
def _scales_differ(unit: Unit) -> tuple[str, str] | None:
    placement = placement_of(unit.node)
    if placement is None or placement.kind != "moving" or unit.sources[0] is None:
        return None
    before = coding_of(unit.sources[0])
    for sink in unit.sinks:
        after = coding_of(sink)
        if not (before.has_zero_point and after.has_zero_point):
            return "a zero point is left out", "write the zero point, even where it is 0"
        if not before.same(after):
            return (
                f"{unit.node.op_type} moves codes as they are, and the scales before and after it"
                " differ",
                "use the scale and zero point of its input for its output",
            )
    return None


@_rule("weight-coding")
def _weight_coding(unit: Unit) -> tuple[str, str] | None:
    place = WEIGHT_INPUT.get(unit.node.op_type)
    maker = None if place is None or len(unit.sources) <= place else unit.sources[place]
    if maker is None or constant_codes(maker) is None:
        return None
    coding = coding_of(maker)
    if not coding.is_byte or coding.block:
        shown = f"{coding.dtype.name.lower()}{' in blocks' if coding.block else ''}"
        return f"its weight is {shown}, and its input is quantized too", "use int8 for the weight"
    if coding.axis is not None and coding.axis != right_axis(unit):
        return (
            f"the scales of its weight run along axis {coding.axis}",
            f"let them run along axis {right_axis(unit)}",
        )
    return None
