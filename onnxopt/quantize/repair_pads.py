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
    is_dequantize,
    is_quantize,
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
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    value = ops.constant(fill)
    if pads is None or (fill is not None and value is None):
        return None
    numbers = pads.numpy().astype(np.int64).tolist()
    rank = len(numbers) // 2
    edges = [*numbers[:2], *numbers[rank : rank + 2]]
    spatial = [*numbers[2:rank], *numbers[rank + 2 :]]
    if rank < 3 or any(edges) or min(spatial) < 0:
        return None
    return spatial if value is None or _is_zero(node, value) else None


def _is_zero(node: ir.Node, value: ir.TensorProtocol) -> bool:
    """Whether a Pad fills with what its codes say is 0."""
    maker = source(node.inputs[0])
    assert maker is not None
    coding = coding_of(maker)
    number = float(value.numpy().reshape(-1)[0])
    step = 0.0 if coding.scale is None else float(coding.scale.reshape(-1)[0])
    return abs(number) <= step / 2


def _only(value: ir.Value) -> ir.Node | None:
    found = readers(value)
    return found[0] if len(found) == 1 and not value.is_graph_output() else None
