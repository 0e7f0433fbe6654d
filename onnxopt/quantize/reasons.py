"""Why a node between Q/DQ pairs stays float on onnxruntime's CPU provider: one function a reason.

The functions are asked in order; the first that has a word for the node names the reason. Facts
from tests/quantize/test_placement.py and from reading which patterns onnxruntime 1.31.1 selects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.placement import (
    MOVES_ANY_CODE,
    PLACEMENTS,
    WEIGHT_INPUT,
    Placement,
    weight_axis,
)
from onnxopt.quantize.units import (
    ABSORBED,
    Coding,
    Unit,
    clip_bounds,
    coding_of,
    constant_codes,
    float_attribute,
    int_attribute,
    is_byte_op,
    is_constant,
    is_dequantize,
    is_quantize,
    named,
    readers,
    source,
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
    product = _joined_product(unit)
    if product is not None:
        return blocked(unit_of(product))
    for name, ask in _ASKED:
        answer = ask(unit)
        if answer is not None:
            return Why(name, *answer)
    return None


def why(unit: Unit) -> Why:
    """Why the node stays float."""
    found = blocked(unit)
    if found is not None:
        return found
    types = ", ".join(coding.dtype.name.lower() for coding in _codings(unit))
    return Why(
        "declined",
        f"the provider has no integer {unit.node.op_type} for codes of types {types}, as this node"
        " uses them",
        "leave the pairs around it out",
    )


def data_inputs(node: ir.Node) -> tuple[int, ...]:
    """The positions of the inputs that must come from a DQ."""
    placement = _placement(node)
    present = [i for i, value in enumerate(node.inputs) if value is not None and value.name]
    if placement is None or placement.data is None:
        return tuple(present)
    return tuple(i for i in present if i in placement.data)


def is_intended(unit: Unit) -> bool:
    """Whether someone meant the node to run in integers: pairs are all around it, or its weight
    is quantized."""
    weight = WEIGHT_INPUT.get(unit.node.op_type)
    if weight is not None and len(unit.sources) > weight and unit.sources[weight] is not None:
        return True
    data = data_inputs(unit.node)
    whole = bool(data) and all(
        unit.sources[i] is not None or ops.is_constant(unit.node.inputs[i]) for i in data
    )
    return whole and any(unit.sources[i] is not None for i in data) and bool(unit.sinks)


def moves_signed(value: ir.Value | None) -> str:
    """Why int8 codes between Q and DQ can't become uint8 ones; empty if they can."""
    maker = None if value is None else value.producer()
    if value is None or not is_quantize(maker):
        return "they come into the graph as they are, and not from a Q"
    if value.is_graph_output():
        return "they are also a graph output"
    # onnxruntime gives every reader of a DQ a DQ of its own before it looks.
    uses = [use for reader in readers(value) for use in named(reader.outputs)[0].uses()]
    if len(readers(value)) > 1 or len(uses) > 1:
        return "more than one node reads what the Q gives"
    return ""


@_rule("no-integer-kernel")
def _no_kernel(unit: Unit) -> tuple[str, str] | None:
    node = unit.node
    if _placement(node) is not None:
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
    for coding in _codings(unit):
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
    for coding in _activation_codings(unit):
        if not coding.is_byte:
            return (
                f"the codes are {coding.dtype.name.lower()}; the kernels take 8 bits",
                "use uint8 for activations",
            )
    return None


@_rule("computed-scale")
def _computed_scale(unit: Unit) -> tuple[str, str] | None:
    if all(coding.constant for coding in _codings(unit)):
        return None
    return "a scale or zero point is computed and no constant", "make it an initializer"


@_rule("activation-per-channel")
def _per_channel(unit: Unit) -> tuple[str, str] | None:
    if all(coding.per_tensor for coding in _activation_codings(unit)):
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
        if _is_quantized_by_runtime(unit, i):
            continue
        return (
            f"{what} is a float constant",
            "quantize the constant: int32 for a bias, uint8 for an operand",
        )
    return None


@_rule("graph-output")
def _graph_output(unit: Unit) -> tuple[str, str] | None:
    if not _needs_output(unit) or not any(value.is_graph_output() for value in _ends(unit)):
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
    if unit.sinks or not _needs_output(unit):
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
    if unit.sinks or not _needs_output(unit):
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
    for maker in _activation_makers(unit):
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
    placement = _placement(unit.node)
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
    placement = _placement(unit.node)
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


@_rule("several-outputs")
def _several_outputs(unit: Unit) -> tuple[str, str] | None:
    outputs = named(unit.node.outputs)
    if len(outputs) == len(unit.sinks) or not _needs_output(unit):
        return None
    return "not all of its outputs go to a Q", "put a pair on each of its outputs"


def trapped_product(node: ir.Node) -> ir.Node | None:
    """The MatMul of a MatMul and Add that onnxruntime joins to a float Gemm; None where not so.

    `node` is the one or the other. A bias of int32 behind a DQ, and a float one before a Q, work.
    """
    if ops.is_standard(node, "Add"):
        makers = (None if value is None else value.producer() for value in node.inputs)
        products = [each for each in makers if each is not None and each.op_type == "MatMul"]
        found = products[0] if products else None
        return found if found is not None and trapped_product(found) is found else None
    if not ops.is_standard(node, "MatMul") or source(node.inputs[1]) is None:
        return None
    outputs = named(node.outputs)
    following = readers(outputs[0]) if outputs and not outputs[0].is_graph_output() else ()
    if len(following) != 1 or not ops.is_standard(following[0], "Add"):
        return None
    add = following[0]
    other = next((value for value in add.inputs if value is not outputs[0]), None)
    if other is None or not is_constant(other) or not _is_row(other):
        return None
    behind = source(other)
    if behind is None:
        return None if unit_of_add_ends_in_quantizer(add) else node
    return None if coding_of(behind).dtype is ir.DataType.INT32 else node


def unit_of_add_ends_in_quantizer(add: ir.Node) -> bool:
    """Whether all that reads the sum is one Q, maybe after a Relu or Clip."""
    value = add.outputs[0]
    following = readers(value)
    if len(following) == 1 and following[0].op_type in ABSORBED and not value.is_graph_output():
        value = following[0].outputs[0]
        following = readers(value)
    return len(following) == 1 and is_quantize(following[0]) and not value.is_graph_output()


def is_absorbed(activation: ir.Node, quantize: ir.Node) -> bool:
    """Whether the Q cuts at least as much as the Relu or Clip before it."""
    coding = coding_of(quantize)
    if not coding.constant or not coding.per_tensor:
        return False
    low, high = coding.limits
    if activation.op_type == "Relu":
        return low >= 0
    bounds = [ops.constant(value) for value in activation.inputs[1:3] if value is not None]
    if len(bounds) != len(named(activation.inputs[1:3])) or any(each is None for each in bounds):
        return False
    lowest, highest = clip_bounds(activation)
    return lowest <= low + 1e-6 and highest >= high - 1e-6


def right_axis(unit: Unit) -> int | None:
    """The axis that the scales of the unit's weight must run along."""
    node = unit.node
    codes = constant_codes(unit.sources[WEIGHT_INPUT[node.op_type]])
    rank = 2 if codes is None else codes.ndim
    return weight_axis(node.op_type, rank, bool(int_attribute(node, "transB", 0)))


def bias_makers(unit: Unit) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The DQs of input, weight and bias of a product; those of a MatMul for the Add behind it."""
    node, makers = unit.node, unit.sources[:3]
    if ops.is_standard(node, "Add"):
        products = [v.producer() for v in named(node.inputs) if _is_from(v, "MatMul")]
        biases = [maker for maker in unit.sources if maker is not None]
        if len(products) != 1 or len(biases) != 1 or products[0] is None:
            return None
        makers = (*(source(value) for value in products[0].inputs), biases[0])
    elif not ops.is_standard(node, "Conv", "Gemm"):
        return None
    found = [maker for maker in makers if maker is not None]
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def bias_scale_error(unit: Unit) -> float | None:
    """How many times too large the scale of an int32 bias is, at worst; None where it is right."""
    makers = bias_makers(unit)
    if makers is None:
        return None
    data, weight, bias = (coding_of(maker) for maker in makers)
    if bias.dtype is not ir.DataType.INT32 or not all(c.constant for c in (data, weight, bias)):
        return None
    assert data.scale is not None and weight.scale is not None and bias.scale is not None
    assert bias.zero_point is not None
    if bias.zero_point.any():
        return float("inf")
    wanted = data.scale.reshape(-1)[:1] * weight.scale.reshape(-1)
    if bias.scale.size not in (1, wanted.size) and wanted.size != 1:
        return float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = bias.scale.reshape(-1) / wanted
        off = np.abs(np.log2(np.where(ratio > 0, ratio, np.inf)))
    return float(ratio[int(off.argmax())]) if float(off.max()) > 1e-3 else None


def _joined_product(unit: Unit) -> ir.Node | None:
    """The MatMul that an Add of an int32 bias becomes one Gemm with."""
    makers = bias_makers(unit) if ops.is_standard(unit.node, "Add") else None
    if makers is None or coding_of(makers[2]).dtype is not ir.DataType.INT32:
        return None
    for value in named(unit.node.inputs):
        maker = value.producer()
        if maker is not None and ops.is_standard(maker, "MatMul"):
            return maker if len(readers(value)) == 1 and not value.is_graph_output() else None
    return None


def _is_from(value: ir.Value, op_type: str) -> bool:
    maker = value.producer()
    return maker is not None and ops.is_standard(maker, op_type)


def _placement(node: ir.Node) -> Placement | None:
    return PLACEMENTS.get(node.op_type) if node.domain in ops.STANDARD_DOMAINS else None


def _needs_output(unit: Unit) -> bool:
    placement = _placement(unit.node)
    return placement is None or placement.output


def _ends(unit: Unit) -> Iterator[ir.Value]:
    yield from named(unit.node.outputs)
    if unit.activation is not None:
        yield from named(unit.activation.outputs)


def _is_quantized_by_runtime(unit: Unit, index: int) -> bool:
    """Whether onnxruntime itself quantizes this float constant when it loads the model."""
    if unit.node.op_type == "Where":
        tensor = ops.constant(unit.node.inputs[index])
        return tensor is not None and not tensor.shape.numpy()
    if unit.node.op_type in ("Conv", "Gemm"):
        return index in (1, 2) and bool(unit.sinks)
    return unit.node.op_type == "MatMul" and index == 1 and bool(unit.sinks)


def _is_row(value: ir.Value) -> bool:
    behind = source(value)
    tensor = ops.constant(value if behind is None else behind.inputs[0])
    return tensor is not None and sum(size != 1 for size in tensor.shape.numpy()) <= 1


def _codings(unit: Unit) -> list[Coding]:
    makers = [maker for maker in (*unit.sources, *unit.sinks) if maker is not None]
    return [coding_of(maker) for maker in makers]


def _activation_makers(unit: Unit) -> list[ir.Node]:
    weighted = unit.node.op_type in WEIGHT_INPUT
    found = [
        maker
        for i, maker in enumerate(unit.sources)
        if maker is not None and (i == 0 or not weighted or constant_codes(maker) is None)
    ]
    return [*found, *unit.sinks]


def _activation_codings(unit: Unit) -> list[Coding]:
    return [coding_of(maker) for maker in _activation_makers(unit)]


__all__ = [
    "Why", "bias_scale_error", "clip_bounds", "data_inputs", "is_absorbed", "is_byte_op",
    "is_dequantize", "is_intended", "moves_signed", "right_axis", "rule_names", "trapped_product",
    "why",
]  # fmt: skip
