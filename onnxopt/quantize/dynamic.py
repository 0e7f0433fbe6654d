"""Integer products whose inputs are coded while the model runs: no calibration is needed.

A product becomes DynamicQuantizeLinear, MatMulInteger, Cast and Mul, which onnxruntime joins to one
DynamicQuantizeMatMul, or to a MatMulIntegerToFloat each where several products read the same value
and share its codes. An LSTM becomes com.microsoft's DynamicQuantizeLSTM. Rows of a table are
looked up as codes. Scales are one a channel (one a row of a table), and such that no sum of two
products overflows 16 bits, see saturation.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.passes import shapes
from onnxopt.quantize.draft import MICROSOFT, Draft, drop_unread, graph_of, home_of, take_place
from onnxopt.quantize.records import Choice
from onnxopt.quantize.row_codes import RowCodes, coded_rows
from onnxopt.quantize.sites import Site, is_transposed, sites

Array = np.ndarray[Any, np.dtype[Any]]

LEAST_PRODUCT = 4096
"""Products with fewer weights than this are faster as they are."""
LEAST_TABLE = 1 << 15
"""Tables with fewer numbers than this are not worth two more nodes."""

_BYTE, _CODE, _SUM = ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32
_FLOAT = ir.DataType.FLOAT
_PLACES = {"product": "activations coded as the model runs", "table": "rows looked up as codes"}


def dynamic_choices(model: ir.Model) -> tuple[Choice, ...]:
    """A choice for each site of the model, as far as it can be told without running it."""
    return tuple(_choice(site) for site in sites(model))


def _choice(site: Site) -> Choice:
    refusal = site.refusal
    if not refusal and site.kind == "convolution":
        refusal = "coding its input as the model runs costs more than it brings; use static"
    least = {"product": LEAST_PRODUCT, "table": LEAST_TABLE}.get(site.kind, 0)
    if not refusal and site.size < least:
        refusal = f"its {site.size} weights are too few to pay"
    reason = refusal or f"int8 weights, {_PLACES.get(site.kind, _PLACES['product'])}"
    return Choice(site.name, site.node.op_type, not refusal, reason)


def with_dynamic_codes(
    model: ir.Model,
    chosen: Collection[str],
    codes: Mapping[str, RowCodes] | None = None,
) -> ir.Model:
    """A copy of the model in which the chosen sites compute with codes.

    Args:
        model: The float model; every node has a name of its own.
        chosen: Names of the nodes, out of those that `dynamic_choices` allows.
        codes: Codes by node name for weights that are not just to be rounded to nearest.
    """
    result = model.clone()
    writer = _Writer(result, codes or {})
    for site in tuple(sites(result)):
        if site.name in chosen and not site.refusal:
            writer.write(site)
            io.release(model)
    drop_unread(result)
    shapes.restore(result)
    return result


@dataclass(frozen=True, slots=True)
class _Coded:
    """What a DynamicQuantizeLinear gives: codes, scale, zero point."""

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value


@dataclass(slots=True)
class _Writer:
    model: ir.Model
    given: Mapping[str, RowCodes]
    draft: Draft = field(init=False)
    activations: dict[tuple[ir.Value, ir.Graph], _Coded] = field(default_factory=dict)
    weights: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draft = Draft(self.model)

    def write(self, site: Site) -> None:
        if site.kind == "product":
            self._product(site)
        elif site.kind == "recurrence":
            self._recurrence(site)
        elif site.kind == "table":
            self._table(site)

    def _product(self, site: Site) -> None:
        node, read = site.node, site.node.inputs[0]
        assert read is not None and site.weight is not None
        coded = self._activation(read, node)
        weight, scale = self._weight(site, site.weight)
        base = node.outputs[0].name or "y"
        draft = self.draft
        (sums,) = draft.node(
            node, "MatMulInteger", [coded.codes, weight, coded.zero_point],
            [(f"{base}_sums", _SUM)], name=site.name,
        )  # fmt: skip
        to = [ir.AttrInt64("to", _FLOAT.value)]
        (numbers,) = draft.node(node, "Cast", [sums], [(f"{base}_numbers", _FLOAT)], to)
        (step,) = draft.node(node, "Mul", [coded.scale, scale], [(f"{base}_step", _FLOAT)])
        (found,) = draft.node(node, "Mul", [numbers, step], [(f"{base}_product", _FLOAT)])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            found.shape = node.outputs[0].shape
            (found,) = draft.node(node, "Add", [found, bias], [(f"{base}_sum", _FLOAT)])
        take_place(found, node.outputs[0])
        graph_of(node).remove(node, safe=True)

    def _activation(self, value: ir.Value, reader: ir.Node) -> _Coded:
        """The codes of an activation; all products of a graph that read it share them."""
        key = (value, graph_of(reader))
        if key not in self.activations:
            base = value.name or "x"
            outputs = [
                (f"{base}_codes", _BYTE),
                (f"{base}_scale", _FLOAT),
                (f"{base}_zero_point", _BYTE),
            ]
            made = self.draft.node(reader, "DynamicQuantizeLinear", [value], outputs)
            self.activations[key] = _Coded(*made)
        return self.activations[key]

    def _weight(self, site: Site, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Codes [K, N] and scales [N] of a product's weight; nodes with one weight share them."""
        transposed = is_transposed(site.node)
        key = (weight, transposed)
        if key not in self.weights:
            found = self.given.get(site.name)
            if found is None:
                tensor = ops.constant(weight)
                assert tensor is not None
                array = tensor.numpy()
                found = coded_rows(array if transposed else array.T)
            home, base = home_of(weight, site.node), weight.name or "w"
            self.weights[key] = (
                self.draft.constant(home, f"{base}_codes", np.ascontiguousarray(found.codes.T)),
                self.draft.constant(home, f"{base}_scale", found.scale),
            )
        return self.weights[key]

    def _recurrence(self, site: Site) -> None:
        node = site.node
        slots = list(node.inputs) + [None] * (8 - len(node.inputs))
        parts = [self._gates(node, slot) for slot in (1, 2)]
        (weight, scale, zero), (recurrent, recurrent_scale, recurrent_zero) = parts
        inputs = [slots[0], weight, recurrent, *slots[3:8], scale, zero]
        attributes = [each for name, each in node.attributes.items() if name != "layout"]
        outputs = [(f"{value.name or 'y'}_coded", _FLOAT) for value in node.outputs]
        made = self.draft.node(
            node, "DynamicQuantizeLSTM", [*inputs, recurrent_scale, recurrent_zero], outputs,
            attributes, name=site.name, domain=MICROSOFT,
        )  # fmt: skip
        for new, old in zip(made, node.outputs, strict=True):
            if old.name:
                take_place(new, old)
            else:
                new.name = ""
        graph_of(node).remove(node, safe=True)

    def _gates(self, node: ir.Node, slot: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """A weight of an LSTM [directions, 4H, K] as codes [directions, K, 4H], with scales."""
        value = node.inputs[slot]
        tensor = ops.constant(value)
        assert value is not None and tensor is not None
        each = [coded_rows(rows) for rows in tensor.numpy()]
        home, base = home_of(value, node), value.name or "w"
        scale = np.stack([one.scale for one in each])
        return (
            self.draft.constant(home, f"{base}_codes", np.stack([one.codes.T for one in each])),
            self.draft.constant(home, f"{base}_scale", scale),
            self.draft.constant(home, f"{base}_zero_point", np.zeros(scale.shape, np.int8)),
        )

    def _table(self, site: Site) -> None:
        look_up(self.draft, site, self._rows(site))

    def _rows(self, site: Site) -> tuple[ir.Value, ir.Value]:
        return row_constants(self.draft, site)


def row_constants(draft: Draft, site: Site) -> tuple[ir.Value, ir.Value]:
    """Codes [rows, columns] of a table, and scales [rows, 1]."""
    tensor = ops.constant(site.weight)
    assert site.weight is not None and tensor is not None
    found = coded_rows(tensor.numpy(), top=None)
    home, base = home_of(site.weight, site.node), site.weight.name or "w"
    return (
        draft.constant(home, f"{base}_codes", found.codes),
        draft.constant(home, f"{base}_scale", found.scale[:, None]),
    )


def look_up(draft: Draft, site: Site, rows: tuple[ir.Value, ir.Value]) -> None:
    """Put two look-ups, of codes and of their scales, in the place of one of numbers."""
    node, places = site.node, site.node.inputs[1]
    base = node.outputs[0].name or "y"
    axis = [ir.AttrInt64("axis", 0)]
    (codes,) = draft.node(
        node, "Gather", [rows[0], places], [(f"{base}_codes", _CODE)], axis, name=site.name
    )
    (scale,) = draft.node(node, "Gather", [rows[1], places], [(f"{base}_scale", _FLOAT)], axis)
    to = [ir.AttrInt64("to", _FLOAT.value)]
    (numbers,) = draft.node(node, "Cast", [codes], [(f"{base}_numbers", _FLOAT)], to)
    (found,) = draft.node(node, "Mul", [numbers, scale], [(f"{base}_rows", _FLOAT)])
    take_place(found, node.outputs[0])
    graph_of(node).remove(node, safe=True)
