"""Weights as codes, arithmetic on numbers: smaller files, for those who may pay with speed.

The weight of a product lies behind a DequantizeLinear that onnxruntime joins with the product to a
MatMulNBits, where nothing else reads it: 8 bits with a scale a channel, or 4 or 8 bits with a
scale for each block of K (opset 21). Convolutions read int8 weights that are unpacked at every run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.errors import BadInput
from onnxopt.passes import shapes
from onnxopt.quantize.blocks import BlockCodes, block_codes
from onnxopt.quantize.draft import Draft, drop_unread, graph_of, take_place
from onnxopt.quantize.dynamic import LEAST_TABLE, look_up, row_constants
from onnxopt.quantize.insert import nearest_codes
from onnxopt.quantize.reasons_weights import cut_behind
from onnxopt.quantize.records import Choice
from onnxopt.quantize.row_codes import product_rows
from onnxopt.quantize.sites import Site, sites

Array = np.ndarray[Any, np.dtype[Any]]

BITS = (8, 4)
OPSET_BY_CHANNEL, OPSET_BLOCKS = 13, 21
_LEAST = 1024
"""Weights that are fewer than this are not worth a node."""
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True)
class Packing:
    """How weights of products are stored: `bits` of a code, `block` numbers a scale, 0 a channel.

    Raises:
        BadInput: onnxruntime has no kernel for it.
    """

    bits: int = 8
    block: int = 0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise BadInput(f"weights can't have {self.bits} bits", hint="choose 8 or 4")
        size = self.block
        if size and (size < 16 or size & (size - 1)):
            raise BadInput(
                f"blocks can't have {size} weights", hint="give a power of two from 16 on, as 32"
            )

    @property
    def opset(self) -> int:
        """The first opset that can say it."""
        return OPSET_BLOCKS if self.block or self.bits == 4 else OPSET_BY_CHANNEL

    def __str__(self) -> str:
        return f"int{self.bits} weights, " + (
            f"a scale for each {self.block} of them" if self.block else "a scale a channel"
        )


def weight_choices(model: ir.Model, packing: Packing) -> tuple[Choice, ...]:
    """A choice for each site of the model."""
    return tuple(_choice(site, packing) for site in sites(model))


def _choice(site: Site, packing: Packing) -> Choice:
    refusal = site.refusal
    if not refusal and site.kind == "recurrence":
        refusal = "its weights would be unpacked at every run; use dynamic"
    if not refusal and site.size < (LEAST_TABLE if site.kind == "table" else _LEAST):
        refusal = f"its {site.size} weights are too few to bring anything"
    reason = refusal or {
        "product": str(packing),
        "table": "int8 weights, rows looked up as codes",
    }.get(site.kind, "int8 weights, unpacked at every run: smaller, and a little slower")
    return Choice(site.name, site.node.op_type, not refusal, reason)


def with_coded_weights(
    model: ir.Model,
    chosen: Collection[str],
    packing: Packing,
    codes: Mapping[str, BlockCodes] | None = None,
) -> ir.Model:
    """A copy of the model with the weights of the chosen sites as codes.

    Args:
        model: The float model of opset `packing.opset`; every node has a name of its own.
        chosen: Names of the nodes, out of those that `weight_choices` allows.
        packing: How to store the weights of products.
        codes: Codes by node name for weights that are not just to be rounded to nearest.
    """
    result = model.clone()
    writer = _Writer(result, packing, codes or {})
    for site in tuple(sites(result)):
        if site.name in chosen and not site.refusal:
            writer.write(site)
            io.release(model)
    drop_unread(result)
    shapes.restore(result)
    return result


def product_codes(site: Site, packing: Packing, second: Array | None = None) -> BlockCodes:
    """The codes of a product's weight, a row an output channel."""
    rows = product_rows(site)
    return block_codes(rows, packing.bits, packing.block or rows.shape[1], second)


@dataclass(slots=True)
class _Writer:
    model: ir.Model
    packing: Packing
    codes: Mapping[str, BlockCodes]
    draft: Draft = field(init=False)

    def __post_init__(self) -> None:
        self.draft = Draft(self.model)

    def write(self, site: Site) -> None:
        if site.kind == "table":
            look_up(self.draft, site, row_constants(self.draft, site))
        elif site.kind == "product":
            self._product(site)
        elif site.kind == "convolution":
            tensor = ops.constant(site.weight)
            assert tensor is not None
            axis = 0 if site.node.op_type == "Conv" else 1
            codes, scale = nearest_codes(tensor.numpy(), axis)
            self._behind(site, codes, scale, ir.DataType.INT8, [ir.AttrInt64("axis", axis)])

    def _product(self, site: Site) -> None:
        # Each product has codes of its own: onnxruntime joins none whose codes others read.
        found = self.codes.get(site.name)
        if found is None:
            found = product_codes(site, self.packing)
        dtype = ir.DataType.INT4 if self.packing.bits == 4 else ir.DataType.INT8
        codes = np.ascontiguousarray(found.codes.T)
        if self.packing.block:
            scale = np.ascontiguousarray(found.scale.T)
            attributes = [ir.AttrInt64("axis", 0), ir.AttrInt64("block_size", found.block)]
        else:
            scale, attributes = found.scale[:, 0].copy(), [ir.AttrInt64("axis", 1)]
        self._behind(site, codes, scale, dtype, attributes)
        activation = cut_behind(site.node)
        if activation is not None:
            self._as_bounds(activation)
        if site.node.op_type == "Gemm":
            site.node.attributes.pop("transB", None)
            self._split(site.node)

    def _as_bounds(self, node: ir.Node) -> None:
        """A Max, and a Min, for a Relu or Clip: behind these no product is joined."""
        found, base = node.inputs[0], node.outputs[0].name or "y"
        bounds = [*node.inputs[1:3], None, None]
        low = bounds[0]
        if node.op_type == "Relu":
            low = self.draft.constant(graph_of(node), f"{base}_least", np.float32(0))
        for op_type, bound in (("Max", low), ("Min", bounds[1])):
            if bound is not None:
                (found,) = self.draft.node(
                    node, op_type, [found, bound], [(f"{base}_{op_type.lower()}", _FLOAT)]
                )
                found.shape = node.outputs[0].shape
        if found is not node.inputs[0] and found is not None:
            take_place(found, node.outputs[0])
            graph_of(node).remove(node, safe=True)

    def _split(self, node: ir.Node) -> None:
        """A MatMul and a Sum for a Gemm that adds more than a row, which would stay a float Gemm.

        An Add would be joined with the MatMul to that very Gemm again.
        """
        added = node.inputs[2] if len(node.inputs) > 2 else None
        row = ops.constant(added)
        if added is None or (row is not None and len(row.shape) == 1):
            return
        base = node.outputs[0].name or "y"
        (product,) = self.draft.node(
            node, "MatMul", node.inputs[:2], [(f"{base}_product", _FLOAT)], name=node.name or ""
        )
        (found,) = self.draft.node(node, "Sum", [product, added], [(f"{base}_sum", _FLOAT)])
        take_place(found, node.outputs[0])
        graph_of(node).remove(node, safe=True)

    def _behind(
        self, site: Site, codes: Array, scale: Array, dtype: ir.DataType, attributes: list[ir.Attr]
    ) -> None:
        """Let the site read codes through a DequantizeLinear of its own."""
        weight = site.weight
        assert weight is not None
        # onnxruntime can't load a body's product whose codes lie in the graph outside of it.
        home, base = graph_of(site.node), weight.name or "w"
        stored = self.draft.constant(home, f"{base}_codes", codes, dtype)
        steps = self.draft.constant(home, f"{base}_scale", scale)
        (numbers,) = self.draft.node(
            site.node, "DequantizeLinear", [stored, steps], [(f"{base}_numbers", _FLOAT)],
            attributes,
        )  # fmt: skip
        numbers.shape = ir.Shape(codes.shape)
        site.node.replace_input_with(1, numbers)
