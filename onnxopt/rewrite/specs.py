"""Records by which a rule file tells what an operator takes part in besides rewriting."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnxopt.rewrite.flows import Flow, Resize
from onnxopt.rewrite.hit import NodeView


class Role(enum.Enum):
    """What an operator does with quantized numbers."""

    PRODUCT = "product"
    """Multiplies by a weight and accumulates: Conv, Gemm, MatMul."""
    ARITHMETIC = "arithmetic"
    """Computes on quantized inputs with scales of their own, into another scale."""
    MOVE = "move"
    """Moves numbers without computing: input and output share scale and zero point."""


Check = Callable[[NodeView], str]
"""Why the node is not to be quantized, as a sentence; empty if it may be."""


def always(node: NodeView) -> str:
    """The check of an operator that may always be quantized."""
    return ""


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """Which inputs and outputs of an operator carry pairs of QuantizeLinear and DequantizeLinear.

    `data` are the inputs that carry activations (None: all of them), `weight` the input that may
    hold a constant weight with `weight_axis` (a function of the node) as its channel axis, `bias`
    the input that becomes int32. `targets` names the targets with an integer kernel, each with the
    check it asks for; `refused` says for others why the operator stays float there. `why` says
    where the knowledge is from. `measured` are the checks by target where times are measured, so
    that what usually loses may be tried. `fused_sums` are targets that join a sum with the product
    before it, so that only its other operand carries a pair. `float_output` tells that the integer
    kernel may write floats, so that the output needs no pair.
    """

    op_types: tuple[str, ...]
    role: Role
    why: str
    data: tuple[int, ...] | None = (0,)
    weight: int | None = None
    weight_axis: Callable[[NodeView], int] | None = None
    bias: int | None = None
    targets: Mapping[str, Check] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Check] = field(default_factory=dict)
    fused_sums: frozenset[str] = frozenset()
    float_output: bool = False


@dataclass(frozen=True, slots=True)
class ChannelFlow:
    """How the channels of an operator's inputs reach its outputs, for pruning.

    `flow` says it for a node; `resize` rewrites a node some of whose axes have lost channels, where
    the operator holds sizes in attributes or inputs.
    """

    op_types: tuple[str, ...]
    flow: Callable[[Flow], None]
    resize: Callable[[Resize], None] | None = None
    domain: str = ""
