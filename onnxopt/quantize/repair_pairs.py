"""Repairs of Q/DQ pairs: their type, their place, and whether they should be there at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.edit import Editor, can_drop, cuts, graph_of, only_dequantized, replace
from onnxopt.quantize.intent import data_inputs, is_absorbed, is_intended
from onnxopt.quantize.lint import idle
from onnxopt.quantize.placement import PLACEMENTS, WEIGHT_INPUT
from onnxopt.quantize.units import (
    ABSORBED,
    Coding,
    Unit,
    all_nodes,
    clip_bounds,
    coding_of,
    constant_codes,
    is_byte_op,
    is_dequantize,
    is_quantize,
    named,
    numbers,
    readers,
    unit_of,
)

_SHIFT = 128


def make_unsigned(model: ir.Model, editor: Editor) -> None:
    """Turn int8 activations into uint8 ones: the same numbers, codes moved by 128."""
    for node in list(all_nodes(model)):
        if is_quantize(node) and only_dequantized(node):
            coding = coding_of(node)
            if coding.dtype is ir.DataType.INT8 and coding.zero_point is not None:
                _shift_pair(node, coding, editor)
        elif is_dequantize(node) and _is_operand(node):
            coding = coding_of(node)
            if coding.dtype is ir.DataType.INT8 and coding.zero_point is not None:
                _shift_constant(node, coding, editor)


def quantize_operands(model: ir.Model, editor: Editor) -> None:
    """Put float constants of quantized Add, Mul, Concat and Where nodes into uint8."""
    for node in list(all_nodes(model)):
        placement = PLACEMENTS.get(node.op_type)
        if is_byte_op(node) or placement is None or placement.kind != "arithmetic":
            continue
        unit = unit_of(node)
        if not is_intended(unit):
            continue
        for i in data_inputs(node):
            tensor = ops.constant(node.inputs[i])
            if tensor is None or tensor.dtype is not ir.DataType.FLOAT:
                continue
            array = tensor.numpy()
            if not array.size or not np.isfinite(array).all():
                continue
            scale, zero = uint8_coding(float(array.min()), float(array.max()))
            codes = np.clip(np.rint(array / np.float64(scale)) + zero, 0, 255).astype(np.uint8)
            name = node.inputs[i].name or "operand"  # type: ignore[union-attr]
            node.replace_input_with(i, editor.quantized(node, name, codes, scale, zero))


def absorb_activations(model: ir.Model, editor: Editor) -> None:
    """Take pairs away between a node and its Relu or Clip, and end the Q after that where it ends.

    What such a Q can't say any more never occurs: the activation cuts it off.
    """
    for activation in list(all_nodes(model)):
        if activation.op_type not in ABSORBED or activation.graph is None:
            continue
        _join_to_producer(activation)
        maker = activation.inputs[0].producer() if activation.inputs[0] is not None else None
        if maker is None or is_byte_op(maker) or maker.op_type not in PLACEMENTS:
            continue
        unit = unit_of(maker)
        if unit.activation is not activation or len(unit.sinks) != 1 or not is_intended(unit):
            continue
        if not is_absorbed(activation, unit.sinks[0]):
            _end_with(activation, unit.sinks[0], editor)


def share_quantizers(model: ir.Model, editor: Editor) -> None:
    """Let one Q read the output of a node, and everything else read what its DQ gives."""
    for node in list(all_nodes(model)):
        if is_byte_op(node) or node.op_type not in PLACEMENTS:
            continue
        unit = unit_of(node)
        if not is_intended(unit) or len(unit.end) != 1:
            continue
        value = unit.end[0]
        quantizers = [each for each in unit.sinks if only_dequantized(each)]
        if value.is_graph_output() or len(quantizers) != len(unit.sinks) or not quantizers:
            continue
        if any(cuts(each) for each in quantizers):
            continue
        _share(value, quantizers)


def move_with_one_scale(model: ir.Model, editor: Editor) -> None:
    """Give the Qs after a node that only moves codes the scale of the DQ before it."""
    for node in all_nodes(model):
        placement = PLACEMENTS.get(node.op_type)
        if is_byte_op(node) or placement is None or placement.kind != "moving":
            continue
        unit = unit_of(node)
        before = unit.sources[0] if unit.sources else None
        if before is None or not is_intended(unit):
            continue
        coding = coding_of(before)
        if not coding.constant or not coding.per_tensor or not coding.is_byte:
            continue
        for quantize in unit.sinks:
            after = coding_of(quantize)
            same = after.same(coding) and after.has_zero_point and coding.has_zero_point
            if same or not only_dequantized(quantize):
                continue
            assert coding.scale is not None and coding.zero_point is not None
            editor.recode(
                quantize,
                float(coding.scale.reshape(-1)[0]),
                int(coding.zero_point.reshape(-1)[0]),
                coding.dtype.numpy(),
            )


def drop_idle(model: ir.Model, editor: Editor) -> None:
    """Take away pairs and quantized constants that no integer kernel is the better for."""
    while True:
        found = [node for node in idle(model) if is_dequantize(node) or can_drop(node)]
        for node in found:
            if is_quantize(node):
                editor.drop_pair(node)
            else:
                _make_float(node, editor)
        if not found:
            return


def uint8_coding(low: float, high: float) -> tuple[float, int]:
    """A scale and zero point for numbers from `low` to `high`; 0 is one of the numbers."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def _shift_pair(quantize: ir.Node, coding: Coding, editor: Editor) -> None:
    zero = np.asarray(coding.zero_point)
    name = f"{quantize.outputs[0].name}_zero_point"
    shape = () if coding.scale is None else coding.scale.shape
    moved = (np.broadcast_to(zero, shape) + _SHIFT).astype(np.uint8)
    for node in (quantize, *readers(quantize.outputs[0])):
        editor.zero_point(node, name, moved)
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def _is_operand(dequantize: ir.Node) -> bool:
    """Whether a quantized constant is an operand, and never a weight."""
    after = readers(dequantize.outputs[0])
    return (
        bool(after)
        and constant_codes(dequantize) is not None
        and all(
            each.op_type in PLACEMENTS
            and each.op_type not in WEIGHT_INPUT
            and any(is_quantize(q) for value in named(each.outputs) for q in readers(value))
            for each in after
        )
    )


def _shift_constant(dequantize: ir.Node, coding: Coding, editor: Editor) -> None:
    codes = constant_codes(dequantize)
    assert codes is not None and coding.zero_point is not None
    name = dequantize.inputs[0].name or "codes"  # type: ignore[union-attr]
    moved = (codes.astype(np.int16) + _SHIFT).astype(np.uint8)
    dequantize.replace_input_with(0, editor.constant(graph_of(dequantize), name, moved))
    shape = () if coding.scale is None else coding.scale.shape
    zero = (np.broadcast_to(coding.zero_point, shape) + _SHIFT).astype(np.uint8)
    editor.zero_point(dequantize, f"{name}_zero_point", zero)


def _join_to_producer(activation: ir.Node) -> None:
    """Take the pair before a Relu or Clip away, if nothing else reads it and a Q follows."""
    value = activation.inputs[0]
    dequantize = None if value is None else value.producer()
    if value is None or dequantize is None or not is_dequantize(dequantize):
        return
    quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
    if quantize is None or not is_quantize(quantize) or not only_dequantized(quantize):
        return
    alone = len(readers(quantize.outputs[0])) == 1 and readers(value) == (activation,)
    number = quantize.inputs[0]
    maker = None if number is None else number.producer()
    if not alone or value.is_graph_output() or number is None or maker is None:
        return
    if activation.op_type == "Clip" and clip_bounds(activation)[0] < 0 and cuts(quantize):
        return
    following = readers(activation.outputs[0])
    if maker.op_type not in PLACEMENTS or not (len(following) == 1 and is_quantize(following[0])):
        return
    if len(readers(number)) == 1 and not number.is_graph_output():
        activation.replace_input_with(0, number)
        graph_of(dequantize).remove([dequantize, quantize], safe=True)


def _end_with(activation: ir.Node, quantize: ir.Node, editor: Editor) -> None:
    """Let the range of a Q end where the activation before it does."""
    coding = coding_of(quantize)
    if not (coding.constant and coding.per_tensor and only_dequantized(quantize)):
        return
    if coding.dtype is not ir.DataType.UINT8:
        return
    low, high = coding.limits
    lowest, highest = clip_bounds(activation) if activation.op_type == "Clip" else (0.0, np.inf)
    low, high = max(low, lowest), min(high, highest)
    if low < 0 or high <= 0:
        return
    # Rounded towards zero: the Q must not reach beyond the bound, or it absorbs nothing.
    scale = np.float32(high / 255)
    scale = np.nextafter(scale, np.float32(0)) if float(scale) * 255 > high else scale
    editor.recode(quantize, float(scale), 0, np.uint8)


def _share(value: ir.Value, quantizers: list[ir.Node]) -> None:
    def reach(quantize: ir.Node) -> float:
        coding = coding_of(quantize)
        return coding.limits[1] - coding.limits[0] if coding.constant and coding.per_tensor else -1

    # The widest cuts nothing off that another one kept.
    best = max(quantizers, key=reach)
    dequantize = readers(best.outputs[0])[0]
    result = dequantize.outputs[0]
    for other in quantizers:
        if other is not best:
            leaving = any(each.outputs[0].is_graph_output() for each in readers(other.outputs[0]))
            if leaving:
                return
    for other in quantizers:
        if other is not best:
            for each in readers(other.outputs[0]):
                replace(each.outputs[0], result)
                graph_of(each).remove(each, safe=True)
            graph_of(other).remove(other, safe=True)
    others = [use for use in value.uses() if use.node is not best]
    for use in others:
        use.node.replace_input_with(use.idx, result)
    _put_after_producer(value, best, dequantize)


def _put_after_producer(value: ir.Value, quantize: ir.Node, dequantize: ir.Node) -> None:
    """Move a pair to where all that now reads it comes after it."""
    maker = value.producer()
    if maker is None:
        return
    graph = graph_of(maker)
    if quantize.graph is graph and dequantize.graph is graph:
        graph.remove([quantize, dequantize])
        graph.insert_after(maker, [quantize, dequantize])


def _make_float(dequantize: ir.Node, editor: Editor) -> None:
    codes = constant_codes(dequantize)
    assert codes is not None
    array = numbers(codes, coding_of(dequantize))
    if array is None:
        return
    name = dequantize.outputs[0].name or "weight"
    result = dequantize.outputs[0]
    if result.is_graph_output():
        return
    replace(result, editor.constant(graph_of(dequantize), f"{name}_float", array))
    graph_of(dequantize).remove(dequantize, safe=True)


__all__ = [
    "Unit", "absorb_activations", "drop_idle", "make_unsigned", "move_with_one_scale",
    "quantize_operands", "share_quantizers", "uint8_coding",
]  # fmt: skip
