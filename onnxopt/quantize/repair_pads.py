"""A Pad between pairs before a convolution, which has no integer kernel where the other has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.quantize.edit import Editor, cuts, graph_of, only_dequantized
from onnxopt.quantize.units import (
    all_nodes,
    coding_of,
    constant_codes,
    is_dequantize,
    is_quantize,
    numbers,
    readers,
    source,
)


@dataclass(frozen=True, slots=True)
class FoldablePad:
    """A Pad of zeros that a convolution can do: the convolution, and its pads with both together.

    `pair` are the Q and DQ between them.
    """

    conv: ir.Node
    pads: tuple[int, ...]
    pair: tuple[ir.Node, ...]


def foldable_pad(node: ir.Node) -> FoldablePad | None:
    """What the Pad can be folded into; None where it can't, or is no Pad between pairs."""
    if not ops.is_standard(node, "Pad") or source(node.inputs[0]) is None:
        return None
    added = _added(node)
    quantize = _only(node.outputs[0])
    if added is None or quantize is None or not is_quantize(quantize):
        return None
    dequantize = _only(quantize.outputs[0])
    if not only_dequantized(quantize) or dequantize is None:
        return None
    if cuts(quantize) and not _is_nonnegative(node):
        return None
    conv = _only(dequantize.outputs[0])
    if conv is None or not ops.is_standard(conv, "Conv") or not is_dequantize(dequantize):
        return None
    mode = conv.attributes.get("auto_pad")
    alone = conv.inputs[0] is dequantize.outputs[0] and conv.graph is node.graph
    if not alone or (mode is not None and mode.as_string() not in ("NOTSET", "VALID")):
        return None
    own = conv.attributes.get("pads")
    before = list(own.as_ints()) if own is not None else [0] * len(added)
    if len(before) != len(added):
        return None
    pads = tuple(a + b for a, b in zip(added, before, strict=True))
    return FoldablePad(conv, pads, (dequantize, quantize))


def fold_pads(model: ir.Model, editor: Editor) -> None:
    """Let convolutions pad themselves: their integer kernels do, and the pair between goes."""
    for node in list(all_nodes(model)):
        found = foldable_pad(node)
        if found is None:
            continue
        conv = found.conv
        conv.attributes.pop("auto_pad", None)
        conv.attributes["pads"] = ir.AttrInt64s("pads", found.pads)
        conv.replace_input_with(0, node.inputs[0])
        graph_of(node).remove([*found.pair, node], safe=True)


def _is_nonnegative(node: ir.Node) -> bool:
    """Whether the codes before the Pad stand for no number below 0."""
    maker = source(node.inputs[0])
    coding = None if maker is None else coding_of(maker)
    return coding is not None and coding.constant and coding.per_tensor and coding.limits[0] >= 0


def _added(node: ir.Node) -> list[int] | None:
    """What a Pad of zeros adds before and then after each spatial axis; None for any other."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    if len(node.inputs) < 2 or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    pads = ops.constant(node.inputs[1])
    fill = _fill(node)
    if pads is None or fill is None:
        return None
    sizes = pads.numpy().astype(np.int64).tolist()
    rank = len(sizes) // 2
    edges = [*sizes[:2], *sizes[rank : rank + 2]]
    spatial = [*sizes[2:rank], *sizes[rank + 2 :]]
    if rank < 3 or any(edges) or min(spatial) < 0:
        return None
    return spatial if fill == 0 else None


def _fill(node: ir.Node) -> float | None:
    """The number that a Pad fills with, be it a constant or one behind a DQ; None if computed."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return 0.0
    maker = source(value)
    codes = constant_codes(maker)
    if maker is not None and codes is not None:
        array = numbers(codes, coding_of(maker))
    else:
        tensor = ops.constant(value)
        array = None if tensor is None else tensor.numpy()
    return None if array is None else float(array.reshape(-1)[0])


def _only(value: ir.Value) -> ir.Node | None:
    found = readers(value)
    return found[0] if len(found) == 1 and not value.is_graph_output() else None
