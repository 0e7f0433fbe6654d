"""Values that one change of channels reaches all together."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxopt import ops
from onnxopt.rewrite.hit import NodeView


@dataclass(frozen=True, slots=True)
class Stream:
    """Values that share their channels, the nodes that write them and the nodes that read them."""

    values: tuple[ir.Value, ...]
    writers: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]


def adds_alike(node: ir.Node) -> bool:
    """Whether the node adds two values of the same shape, so that channels stay with their own."""
    if not ops.is_standard(node, "Add"):
        return False
    left, right = NodeView(node).input(0), NodeView(node).input(1)
    return left is not None and right is not None and left.same_shape(right)
