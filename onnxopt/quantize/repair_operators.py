"""Operators that hold codes themselves, written as float operators between pairs, or as float ones.

The QOperator format has no room for a repair: scales and codes are inputs of one node. onnxruntime
makes the same kernels of the pairs again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.edit import Editor, graph_of, replace
from onnxopt.quantize.overflow import MOST, channel_rows, safe_codes, worst_pairs
from onnxopt.quantize.placement import MOVES_ANY_CODE, weight_axis
from onnxopt.quantize.units import (
    Array,
    all_nodes,
    float_attribute,
    int_attribute,
    is_quantize,
    named,
    readers,
)

_MOVERS = MOVES_ANY_CODE | {"MaxPool"}


@dataclass(frozen=True, slots=True)
class _Form:
    """Where an operator of codes keeps its operands, each followed by a scale and a zero point.

    `result` is the scale of the output, `weight` says which operand may have one for each channel.
    """

    plain: str
    operands: tuple[int, ...]
    result: int
    bias: int | None = None
    before: tuple[int, ...] = ()
    weight: int | None = None


_ONE = (0,)
_FORMS: dict[str, _Form] = {
    "QLinearConv": _Form("Conv", (0, 3), 6, bias=8, weight=1),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6, weight=1),
    "QGemm": _Form("Gemm", (0, 3), 7, bias=6, weight=1),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearAveragePool": _Form("AveragePool", _ONE, 3),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", _ONE, 3),
    "QLinearLeakyRelu": _Form("LeakyRelu", _ONE, 3),
    "QLinearSigmoid": _Form("Sigmoid", _ONE, 3),
    "QLinearWhere": _Form("Where", (1, 4), 7, before=_ONE),
}
HOLDING_CODES = frozenset(_FORMS)
_PRODUCTS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})


def signed_product(node: ir.Node) -> bool:
    """Whether a product of codes reads int8 activations."""
    if node.op_type not in _PRODUCTS or len(node.inputs) < 3:
        return False
    zero = node.inputs[2]
    tensor = ops.constant(zero)
    found = tensor.dtype if tensor is not None else None if zero is None else zero.dtype
    return found is ir.DataType.INT8


def can_unfold(node: ir.Node) -> bool:
    """Whether the node can be written as a float operator between pairs."""
    form = _form_of(node)
    if form is None or int_attribute(node, "channels_last", 0):
        return False
    if node.op_type == "QGemm" and float_attribute(node, "alpha", 1.0) != 1:
        return False
    given = _filled(node)
    for place, slot in enumerate(form.operands):
        scale = ops.constant(given(slot + 1))
        if scale is None or (scale.size > 1 and place != form.weight):
            return False
        if place == form.weight and scale.size > 1 and _axis(node, form) is None:
            return False
    bias = None if form.bias is None else given(form.bias)
    return bias is None or ops.constant(bias) is not None


def unfold_operators(model: ir.Model, editor: Editor) -> None:
    """Write all operators of codes as float operators between pairs."""
    for node in list(all_nodes(model)):
        if can_unfold(node):
            _unfold(node, editor)
    for node in list(all_nodes(model)):
        if ops.is_standard(node, *_MOVERS):
            _wrap(node, editor)


def restore_convolutions(model: ir.Model, editor: Editor) -> None:
    """Make float convolutions of those whose input is quantized anew in every run."""
    for node in list(all_nodes(model)):
        found = dynamic_convolution(node)
        if found is None:
            continue
        data, weight, end = found
        name = node.inputs[1].name or "weight"  # type: ignore[union-attr]
        stored = editor.constant(graph_of(node), f"{name}_float", weight)
        conv = editor.node(node, "Conv", [data, stored], node.attributes.values())
        replace(end, editor.result(conv, f"{end.name}_conv", end))


def make_products_safe(model: ir.Model, editor: Editor) -> None:
    """Give channels of dynamically quantized products that can overflow 16 bits a larger scale."""
    for node in list(all_nodes(model)):
        found = rescalable(node)
        if found is None:
            continue
        codes, scale = found.codes, np.broadcast_to(found.scale.reshape(-1), found.codes.shape[-1])
        rows = channel_rows(codes, "MatMul")
        if rows is None or not (worst_pairs(rows) > MOST).any():
            continue
        safe, scales = safe_codes(codes * scale.astype(np.float64), scale, "MatMul", False)
        weight, factor = node.inputs[1], found.factor.inputs[found.slot]
        assert weight is not None and factor is not None
        graph = graph_of(node)
        node.replace_input_with(1, editor.constant(graph, f"{weight.name}_safe", safe))
        stored = editor.constant(graph, f"{factor.name}_safe", scales.astype(np.float32))
        found.factor.replace_input_with(found.slot, stored)


def rescalable(node: ir.Node) -> Dynamic | None:
    """A MatMulInteger whose weight can have another scale for each channel."""
    found = _dynamic(node) if ops.is_standard(node, "MatMulInteger") else None
    if found is None or found.zero.any() or found.codes.ndim != 2:
        return None
    fits = found.codes.dtype == np.int8 and found.scale.size in (1, found.codes.shape[1])
    return found if fits and found.scale.shape[-1:] in ((), (found.scale.size,)) else None


def dynamic_convolution(node: ir.Node) -> tuple[ir.Value, Array, ir.Value] | None:
    """Of a ConvInteger whose input is quantized in every run: that input, the weight as float
    numbers, and what the products are when they are numbers again; None for any other node."""
    found = _dynamic(node) if ops.is_standard(node, "ConvInteger") else None
    if found is None or found.scale.size not in (1, len(found.codes)):
        return None
    spread = (-1, *[1] * (found.codes.ndim - 1))
    array = found.codes.astype(np.int32) - found.zero.astype(np.int32).reshape(spread)
    numbers = array * found.scale.astype(np.float64).reshape(spread)
    return found.data, numbers.astype(np.float32), found.end


@dataclass(frozen=True, slots=True)
class Dynamic:
    """An integer product of an input that is quantized in every run.

    `data` is that input, `codes`, `zero` and `scale` are the weight's, `factor` multiplies both
    scales and reads the weight's at `slot`, and `end` is what the products are as numbers.
    """

    data: ir.Value
    codes: Array
    zero: Array
    scale: Array
    factor: ir.Node
    slot: int
    end: ir.Value


def _dynamic(node: ir.Node) -> Dynamic | None:
    """DynamicQuantizeLinear, the integer product, Cast, Mul: as quantizers write it."""
    given = _filled(node)
    made = None if node.inputs[0] is None else node.inputs[0].producer()
    codes, zero = ops.constant(given(1)), ops.constant(given(3))
    if made is None or not ops.is_standard(made, "DynamicQuantizeLinear") or codes is None:
        return None
    if given(2) is not made.outputs[2] or (given(3) is not None and zero is None):
        return None
    cast = _only_reader(node.outputs[0], "Cast")
    product = None if cast is None else _only_reader(cast.outputs[0], "Mul")
    both = None if product is None else _other(product, cast)
    factor = None if both is None else both.producer()
    if product is None or factor is None or not ops.is_standard(factor, "Mul"):
        return None
    if made.outputs[1] not in factor.inputs or len(readers(factor.outputs[0])) != 1:
        return None
    slot = 1 if factor.inputs[0] is made.outputs[1] else 0
    scale = ops.constant(factor.inputs[slot])
    if scale is None or made.inputs[0] is None:
        return None
    zeros = np.zeros(1, np.int32) if zero is None else zero.numpy()
    return Dynamic(
        made.inputs[0], codes.numpy(), zeros, scale.numpy(), factor, slot, product.outputs[0]
    )


def _form_of(node: ir.Node) -> _Form | None:
    known = node.domain in ("", "ai.onnx", "com.microsoft")
    return _FORMS.get(node.op_type) if known else None


def _filled(node: ir.Node) -> Callable[[int], ir.Value | None]:
    def given(slot: int) -> ir.Value | None:
        value = node.inputs[slot] if slot < len(node.inputs) else None
        return value if value is not None and value.name else None

    return given


def _axis(node: ir.Node, form: _Form) -> int | None:
    """The axis of a weight with a scale for each channel."""
    assert form.weight is not None
    codes = ops.constant(node.inputs[form.operands[form.weight]])
    rank = 2 if codes is None else len(codes.shape)
    return weight_axis(form.plain, rank, bool(int_attribute(node, "transB", 0)))


def _unfold(node: ir.Node, editor: Editor) -> None:
    form = _form_of(node)
    assert form is not None
    given = _filled(node)
    inputs: list[ir.Value | None] = [given(slot) for slot in form.before]
    for place, slot in enumerate(form.operands):
        scale = ops.constant(given(slot + 1))
        several = place == form.weight and scale is not None and scale.size > 1
        axis = _axis(node, form) if several else None
        inputs.append(_dequantized(node, [given(slot + i) for i in range(3)], axis, editor))
    bias = ops.constant(given(form.bias)) if form.bias is not None else None
    if bias is not None:
        scales = [ops.constant(given(slot + 1)) for slot in form.operands]
        steps = np.float64(1)
        for found in scales:
            assert found is not None
            steps = steps * found.numpy().astype(np.float64).reshape(-1)
        one = steps[0] if steps.size == 1 else steps
        name = given(form.bias).name or "bias"  # type: ignore[arg-type, union-attr]
        inputs.append(editor.quantized(node, name, bias.numpy(), one, 0, 0))
    kept = [each for each in node.attributes.values() if each.name != "channels_last"]
    plain = editor.node(node, form.plain, inputs, kept)
    old = node.outputs[0]
    new = editor.result(plain, f"{old.name}_number", None)
    ends = [given(form.result), given(form.result + 1)]
    if ends[0] is not None:
        coded = editor.node(node, "QuantizeLinear", [new, *ends], [])
        new = editor.result(coded, f"{old.name}_code", old)
    replace(old, new)
    graph_of(node).remove(node, safe=True)


def _dequantized(
    node: ir.Node, given: list[ir.Value | None], axis: int | None, editor: Editor
) -> ir.Value:
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    inputs = given if given[2] is not None else given[:2]
    made = editor.node(node, "DequantizeLinear", inputs, attributes)
    name = given[0].name if given[0] is not None else "codes"
    return editor.result(made, f"{name}_number", None)


def _wrap(node: ir.Node, editor: Editor) -> None:
    """Let a node that moves codes of a Q move numbers between pairs of that scale."""
    value = node.inputs[0]
    quantize = None if value is None else value.producer()
    if value is None or quantize is None or not is_quantize(quantize) or len(node.outputs) != 1:
        return
    both = list(quantize.inputs[1:])
    old = node.outputs[0]
    node.replace_input_with(0, _dequantized(node, [value, *both, None][:3], None, editor))
    moved = editor.node(node, node.op_type, list(node.inputs), node.attributes.values())
    number = editor.result(moved, f"{old.name}_number", None)
    coded = editor.node(node, "QuantizeLinear", [number, *both], [])
    replace(old, editor.result(coded, f"{old.name}_code", old))
    graph_of(node).remove(node, safe=True)


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    found = readers(value)
    if len(found) != 1 or value.is_graph_output() or not ops.is_standard(found[0], op_type):
        return None
    return found[0]


def _other(product: ir.Node, known: ir.Node | None) -> ir.Value | None:
    assert known is not None
    return next((v for v in named(product.inputs) if v is not known.outputs[0]), None)
