"""Repairs what `lint` finds, with no data: what runs in integers grows, and what it says stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.config import Options
from onnxopt.errors import BadInput
from onnxopt.passes import manager, pipelines, shapes
from onnxopt.passes.base import Context
from onnxopt.passes.opset import raise_opset
from onnxopt.quantize.edit import Editor
from onnxopt.quantize.lint import PER_CHANNEL_OPSET, Fault, lint
from onnxopt.quantize.repair_operators import (
    HOLDING_CODES,
    make_products_safe,
    restore_convolutions,
    unfold_operators,
)
from onnxopt.quantize.repair_pads import fold_pads
from onnxopt.quantize.repair_pairs import (
    absorb_activations,
    drop_idle,
    make_unsigned,
    move_with_one_scale,
    quantize_operands,
    share_quantizers,
)
from onnxopt.quantize.repair_weights import (
    code_biases,
    fold_normalizations,
    make_safe,
    turn_axes,
    widen_weights,
)

_CLEANING = Options(only=("clean", "fold", "drop_cast_like"))

Repair = Callable[[ir.Model, Editor], None]
_NOT_INTEGER = frozenset({"misplaced-pair", "signed-activations"})

# Biases come after all that changes a scale. What stays float goes before weights are made safe:
# float kernels are the better for every bit. Only then is it told what every Pad fills with.
_REPAIRS: tuple[Repair, ...] = (
    restore_convolutions,
    make_products_safe,
    make_unsigned,
    fold_normalizations,
    absorb_activations,
    fold_pads,
    share_quantizers,
    quantize_operands,
    widen_weights,
    turn_axes,
    move_with_one_scale,
    code_biases,
    drop_idle,
    fold_pads,
    make_safe,
    code_biases,
)


@dataclass(frozen=True, slots=True)
class Repaired:
    """A repaired copy of a model, the faults that are gone, and those that are left."""

    model: ir.Model
    fixed: tuple[Fault, ...]
    left: tuple[Fault, ...]

    def __iter__(self) -> Iterator[object]:
        return iter((self.model, self.fixed))


def fix(model: io.Source) -> Repaired:
    """Repair a quantized model of any tool; the model given is not changed.

    What is constant is folded first: exporters leave biases that are computed in every run.

    Operators that hold codes themselves (QLinearConv) become pairs where only that allows a repair.

    A model of an opset before 13 gets opset 13, the first that knows scales per channel.

    Raises BadModel if the model can't be read.
    """
    original = io.load(model)
    before = lint(original)
    start = _cleaned(_raised(original) if before else original)
    repaired, left = _repaired(start, _REPAIRS)
    if any(node.op_type in HOLDING_CODES for node in start.graph.all_nodes()) and before:
        unfolded, remaining = _repaired(start, (unfold_operators, *_REPAIRS))
        # Pairs that make no integer kernel are worse than the operators that they were.
        if not {fault.kind for fault in remaining} & _NOT_INTEGER and len(remaining) <= len(left):
            repaired, left = unfolded, remaining
    still = {(fault.kind, fault.node) for fault in left}
    fixed = tuple(fault for fault in before if (fault.kind, fault.node) not in still)
    return Repaired(repaired, fixed, left)


def _repaired(model: ir.Model, repairs: Iterable[Repair]) -> tuple[ir.Model, tuple[Fault, ...]]:
    copy = model.clone()
    editor = Editor(copy)
    for repair in repairs:
        repair(copy, editor)
    copy = _cleaned(copy)
    return copy, lint(copy)


def _raised(model: ir.Model) -> ir.Model:
    """The model, or a copy of a later opset where onnx's converter knows the way."""
    if model.opset_imports.get("", PER_CHANNEL_OPSET) >= PER_CHANNEL_OPSET:
        return model
    copy = model.clone()
    try:
        raise_opset(copy, PER_CHANNEL_OPSET)
    except BadInput:
        return model
    return copy


def _cleaned(model: ir.Model) -> ir.Model:
    """A copy without what can be computed beforehand, and without what nothing reads."""
    copy = model.clone()
    ops.mark_constants(copy)
    shapes.keep_facts(copy)
    context = Context(_CLEANING, io.model_bytes(model))
    result = manager.run(copy, pipelines.optimize(_CLEANING), context).model
    shapes.restore(result)
    return result
