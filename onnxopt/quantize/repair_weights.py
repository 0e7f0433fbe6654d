"""Repairs of what is constant in a quantized product: the codes of its weight and of its bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.edit import Editor, cuts, graph_of, only_dequantized, replace
from onnxopt.quantize.intent import is_intended
from onnxopt.quantize.lint import PER_CHANNEL_OPSET
from onnxopt.quantize.overflow import MOST, channel_rows, safe_codes, worst_pairs
from onnxopt.quantize.placement import WEIGHT_INPUT
from onnxopt.quantize.products import bias_makers, bias_scale_error, right_axis, trapped_product
from onnxopt.quantize.units import (
    Array,
    all_nodes,
    coding_of,
    constant_codes,
    float_attribute,
    int_attribute,
    is_dequantize,
    is_quantize,
    numbers,
    readers,
    source,
    unit_of,
)

_LARGEST_BIAS = 2.0**30
_NARROW = {ir.DataType.INT4: np.int8, ir.DataType.UINT4: np.uint8}


def fold_normalizations(model: ir.Model, editor: Editor) -> None:
    """Put a BatchNormalization behind a pair into the convolution before the pair.

    The codes of the weight stay as they are: only the scales of its channels change, so that
    nothing is rounded anew.
    """
    for node in list(all_nodes(model)):
        if ops.is_standard(node, "BatchNormalization"):
            _fold_normalization(node, editor)


def widen_weights(model: ir.Model, editor: Editor) -> None:
    """Store weights of 4 bits in 8 where their input is quantized: the same numbers, in codes that
    integer kernels take."""
    for node in list(all_nodes(model)):
        place = WEIGHT_INPUT.get(node.op_type) if ops.is_standard(node) else None
        if place is None or len(node.inputs) <= place or source(node.inputs[0]) is None:
            continue
        maker = source(node.inputs[place])
        codes = constant_codes(maker)
        if maker is None or codes is None or coding_of(maker).dtype not in _NARROW:
            continue
        coding = coding_of(maker)
        if coding.block or coding.zero_point is None:
            continue
        dtype = _NARROW[coding.dtype]
        name = maker.inputs[0].name or "codes"  # type: ignore[union-attr]
        stored = editor.constant(graph_of(maker), f"{name}_wide", codes.astype(dtype))
        maker.replace_input_with(0, stored)
        shape = () if coding.scale is None else coding.scale.shape
        zero = np.broadcast_to(coding.zero_point, shape).astype(dtype)
        editor.zero_point(maker, f"{name}_wide_zero_point", zero)


def turn_axes(model: ir.Model, editor: Editor) -> None:
    """Code weights anew whose scales run along an axis that integer kernels don't read."""
    for node in list(all_nodes(model)):
        found = _weight(node)
        if found is None or node.op_type == "ConvTranspose":
            continue
        maker, codes = found
        coding = coding_of(maker)
        axis = right_axis(unit_of(node))
        if coding.axis is None or axis is None or coding.block:
            continue
        weight = numbers(codes, coding)
        if coding.axis % codes.ndim == axis or weight is None:
            continue
        others = tuple(i for i in range(codes.ndim) if i != axis)
        largest = np.abs(weight.astype(np.float64)).max(axis=others)
        scale = np.where(largest > 0, largest / 127, 1.0)
        _store(node, *_codes(weight, scale, axis), axis, editor)


def make_safe(model: ir.Model, editor: Editor) -> None:
    """Give channels that can overflow 16 bits a larger scale; the others keep their codes."""
    for node in list(all_nodes(model)):
        found = _weight(node)
        if found is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        maker, codes = found
        coding, transposed = coding_of(maker), bool(int_attribute(node, "transB", 0))
        group = int_attribute(node, "group", 1)
        rows = channel_rows(codes, node.op_type, transposed, group)
        if codes.dtype != np.int8 or rows is None or not (worst_pairs(rows) > MOST).any():
            continue
        axis, weight = right_axis(unit_of(node)), numbers(codes, coding)
        symmetric = coding.zero_point is not None and not coding.zero_point.any()
        if axis is None or weight is None or coding.block or not symmetric:
            continue
        if unit_of(node).sources[0] is None:
            continue
        assert coding.scale is not None
        scale = np.broadcast_to(coding.scale.reshape(-1), codes.shape[axis])
        safe, scales = safe_codes(weight, scale, node.op_type, transposed, group)
        _store(node, safe, scales, axis, editor)


def code_biases(model: ir.Model, editor: Editor) -> None:
    """Code float biases, and biases of a wrong scale, as int32 at the scale of the product."""
    for node in list(all_nodes(model)):
        if ops.is_standard(node, "Conv", "Gemm") and is_intended(unit_of(node)):
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                _code_bias(node, node, 2, editor)
        elif ops.is_standard(node, "Add"):
            _code_added(node, editor)


def _code_added(add: ir.Node, editor: Editor) -> None:
    product = trapped_product(add)
    if product is None and bias_scale_error(unit_of(add)) is not None:
        makers = bias_makers(unit_of(add))
        product = None
        for value in add.inputs:
            maker = None if value is None else value.producer()
            if makers is not None and maker is not None and maker.op_type == "MatMul":
                product = maker
    if product is None:
        return
    slot = next(i for i, value in enumerate(add.inputs) if value is not product.outputs[0])
    _code_bias(product, add, slot, editor)


def _code_bias(product: ir.Node, holder: ir.Node, slot: int, editor: Editor) -> None:
    """Store the bias that `holder` reads as int32 codes at the scales of `product`."""
    data, found = source(product.inputs[0]), _weight(product)
    bias = _numbers_of(holder.inputs[slot])
    if data is None or found is None or bias is None or not np.isfinite(bias).all():
        return
    maker, codes = found
    before, coding, axis = coding_of(data), coding_of(maker), right_axis(unit_of(product))
    if not (before.constant and before.per_tensor and coding.constant) or coding.block:
        return
    if product.op_type == "Gemm" and float_attribute(product, "alpha", 1.0) != 1:
        return
    held = source(holder.inputs[slot])
    if held is not None and coding_of(held).dtype is ir.DataType.INT32 and not _is_wrong(holder):
        return
    assert before.scale is not None and coding.scale is not None and axis is not None
    channels = codes.shape[axis]
    row = np.broadcast_to(bias.reshape(-1), channels).astype(np.float64)
    steps = before.scale.reshape(-1)[0] * coding.scale.reshape(-1)
    largest = _LARGEST_BIAS if held is None else 2.0**31 - 1
    if (np.abs(np.rint(row / steps)) > largest).any():
        return
    stored = np.rint(row / steps).astype(np.int32)
    scale = steps if steps.size > 1 else steps[0]
    value = holder.inputs[slot]
    name = (value.name if value is not None else None) or "bias"
    along = 0 if steps.size > 1 else None
    holder.replace_input_with(slot, editor.quantized(holder, name, stored, scale, 0, along))


def _is_wrong(holder: ir.Node) -> bool:
    return bias_scale_error(unit_of(holder)) is not None


def _fold_normalization(node: ir.Node, editor: Editor) -> None:
    conv = _conv_before(node) if _knows_channels(node) else None
    found = None if conv is None else _weight(conv)
    parts = [_numbers_of(value) for value in node.inputs[1:5]]
    if conv is None or found is None or any(part is None for part in parts):
        return
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parts)
    maker, codes = found
    coding = coding_of(maker)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = _numbers_of(conv.inputs[2]) if has_bias else np.zeros(len(codes), np.float32)
    usable = coding.constant and coding.axis in (None, 0) and not coding.block
    if bias is None or not usable or coding.zero_point is None or coding.zero_point.any():
        return
    factor = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
    assert coding.scale is not None
    scale = np.broadcast_to(coding.scale.reshape(-1), len(codes)) * np.abs(factor)
    turned = codes.astype(np.int16) * np.sign(factor).reshape(-1, *[1] * (codes.ndim - 1))
    new = np.clip(turned, -127, 127).astype(codes.dtype)
    _store(conv, new, np.where(scale > 0, scale, 1.0), 0, editor)
    shifted = ((bias - mean) * factor + beta).astype(np.float32)
    conv.resize_inputs(3)
    name = f"{conv.outputs[0].name}_bias"
    conv.replace_input_with(2, editor.constant(graph_of(conv), name, shifted))
    data = node.inputs[0]
    assert data is not None
    dequantize = data.producer()
    replace(node.outputs[0], conv.outputs[0])
    graph_of(node).remove(node, safe=True)
    if dequantize is not None and is_dequantize(dequantize):
        quantize = dequantize.inputs[0].producer()  # type: ignore[union-attr]
        assert quantize is not None
        graph_of(conv).remove([dequantize, quantize], safe=True)


def _conv_before(node: ir.Node) -> ir.Node | None:
    """The convolution that a normalization alone reads, be it through a pair or not."""
    if len([value for value in node.outputs if value.name]) != 1 or node.inputs[0] is None:
        return None
    value = node.inputs[0]
    maker = value.producer()
    if maker is not None and is_dequantize(maker) and maker.inputs[0] is not None:
        quantize = maker.inputs[0].producer()
        if quantize is None or not is_quantize(quantize) or not only_dequantized(quantize):
            return None
        alone = len(readers(quantize.outputs[0])) == 1 and readers(value) == (node,)
        if not alone or value.is_graph_output() or quantize.inputs[0] is None or cuts(quantize):
            return None
        value = quantize.inputs[0]
        node = quantize
        maker = value.producer()
    if maker is None or not ops.is_standard(maker, "Conv") or value.is_graph_output():
        return None
    return maker if readers(value) == (node,) and maker.graph is node.graph else None


def _weight(node: ir.Node) -> tuple[ir.Node, Array] | None:
    """The DQ of a product's weight and its constant codes of 8 bits."""
    place = WEIGHT_INPUT.get(node.op_type) if ops.is_standard(node) else None
    if place is None or len(node.inputs) <= place:
        return None
    maker = source(node.inputs[place])
    codes = constant_codes(maker)
    if maker is None or codes is None or codes.dtype not in (np.int8, np.uint8):
        return None
    return maker, codes


def _numbers_of(value: ir.Value | None) -> Array | None:
    """The numbers of a constant, or of one behind a DQ."""
    maker = source(value)
    if maker is not None:
        codes = constant_codes(maker)
        return None if codes is None else numbers(codes, coding_of(maker))
    tensor = ops.constant(value)
    return None if tensor is None else tensor.numpy()


def _codes(weight: Array, scale: Array, axis: int) -> tuple[Array, Array]:
    shape = [1] * weight.ndim
    shape[axis] = -1
    codes = np.rint(weight.astype(np.float64) / scale.reshape(shape))
    return np.clip(codes, -127, 127).astype(np.int8), scale


def _store(node: ir.Node, codes: Array, scale: Array, axis: int, editor: Editor) -> None:
    """Let a product read new codes of its weight, with scales along an axis."""
    place = WEIGHT_INPUT[node.op_type]
    value = node.inputs[place]
    name = (value.name if value is not None else None) or "weight"
    if not _knows_channels(node):
        # Smaller codes than those of each channel alone: what is safe stays so.
        shape = [1] * codes.ndim
        shape[axis] = -1
        one = scale.max()
        codes = np.rint(codes * (scale / one).reshape(shape)).astype(codes.dtype)
        scale = one
    node.replace_input_with(place, editor.quantized(node, name, codes, scale, 0, axis))


def _knows_channels(node: ir.Node) -> bool:
    version = graph_of(node).opset_imports.get("", PER_CHANNEL_OPSET)
    return version >= PER_CHANNEL_OPSET
