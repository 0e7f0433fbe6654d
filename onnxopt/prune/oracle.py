"""What a pruned model should give: the original, with the removed channels held at zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.prune.apply import Gone, gone_from
from onnxopt.prune.flow import walk
from onnxopt.prune.records import Group, Removal
from onnxopt.prune.targets import Maker
from onnxopt.prune.walk import Use


def zeroed(model: ir.Model, groups: Sequence[Group], removal: Removal) -> ir.Model:
    """A copy of the model in which what sums over the channels in `removal` sums zeros instead.

    Its outputs are those of `remove(model, groups, removal)` up to rounding: the slices of the
    weights that would be cut away meet zeros.
    """
    gone = gone_from(groups, removal)
    copy = model.clone()
    maker = Maker(copy)
    masked: dict[tuple[object, ir.Value, int], ir.Value] = {}
    found = walk(copy.graph)
    for use in found.readers:
        value, axis = use.place
        if (str(value.name), axis) in gone:
            current = use.node.inputs[use.index]
            assert current is not None
            key = (use.node.graph, current, axis)
            if key not in masked:
                masked[key] = _mask(use, current, found.sizes(value)[axis:], gone, maker)
            use.node.replace_input_with(use.index, masked[key])
    return copy


def _mask(
    use: Use, value: ir.Value, sizes: Sequence[int | None], gone: Gone, maker: Maker
) -> ir.Value:
    """The value times zero where channels go and one elsewhere."""
    mask = np.ones([sizes[0] or 0] + [1] * (len(sizes) - 1))
    mask[gone[str(use.place[0].name), use.place[1]]] = 0
    weight = None if use.weight is None else use.weight[0].dtype
    dtype = value.dtype or weight or ir.DataType.FLOAT
    constant = maker.constant(use.node, f"{value.name}_mask", mask.astype(dtype.numpy()))
    node = ir.Node("", "Mul", [value, constant], name=maker.names.node(f"{value.name}_mul"))
    made = node.outputs[0]
    made.name = maker.names.value(f"{value.name}_masked")
    made.type, made.shape = value.type, value.shape
    assert use.node.graph is not None
    use.node.graph.insert_before(use.node, node)
    return made
