"""Biases that take back the shift of the mean that quantization causes.

The mean of each output channel of each quantized Conv, Gemm and MatMul is compared with the float
model's, from the inputs to the outputs, and the difference goes into the float bias before that is
rounded (Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2, with measured means).
Each layer is measured behind its corrected predecessors.

Where a Relu or Clip follows, the means are those behind it: what it cuts off is of no consequence,
and errors there are unlike those of what passes. Moving the bias moves only the share of elements
that passes, so the difference is divided by that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.quantize.insert import insert
from onnxopt.quantize.plan import bias_behind
from onnxopt.quantize.records import QuantPlan
from onnxopt.quantize.slices import Feed, Slices, Target, channel_means
from onnxopt.quantize.units import clip_bounds
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.specs import QuantSpec

Array = np.ndarray[Any, np.dtype[Any]]


def correct_biases(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    codes: Mapping[str, tuple[Array, Array]],
    feeds: Iterable[Feed],
    *,
    most: int = 128,
    threads: int = 0,
) -> dict[str, Array]:
    """Float biases by node name with which the quantized means are the float model's.

    A Conv or Gemm without a bias gets one; a MatMul is corrected where a constant row is added
    behind it, and left out where none is.

    Args:
        model: The float model.
        plan: Where the pairs go.
        specs: How each operator is quantized.
        codes: Codes and scales of the weights, as `insert` takes them.
        feeds: Calibration data.
        most: How many feeds to use at most: the stored codes grow with them, the means settle
            long before.
        threads: Threads of the sessions; 0 lets onnxruntime choose.

    Returns:
        float32 [channels] by node name.

    Raises:
        RuntimeFailed: A feed does not run.
    """
    used = list(islice(feeds, most))
    products = _products(model, plan, specs)
    if not used or not products:
        return {}
    targets = [product.target for product in products]
    wanted = channel_means(io.to_proto(model), targets, used, threads=threads)
    biases = {product.node: product.bias for product in products}
    quantized = model.clone()
    insert(quantized, plan, specs, codes, biases)
    nodes = {node.name or "": node for node in quantized.graph}
    # A value that is an output of the model has another name once its pair is in.
    inside = [
        replace(product.target, value=nodes[product.holder].outputs[0].name or "")
        for product in products
    ]
    slices = Slices(io.to_proto(quantized), inside, used, threads=threads)
    for index, product in enumerate(products):
        before, found = wanted[product.target.value], slices.means(index)
        passing = np.maximum(np.maximum(before.inside, found.inside), _LEAST_SHARE)
        shift = (before.mean - found.mean) / passing
        biases[product.node] = (product.bias + shift).astype(np.float32)
        row = nodes[product.holder].inputs[product.slot]
        assert row is not None
        slices.set_bias(row.name or "", biases[product.node])
    return biases


def uncorrected(
    model: ir.Model, plan: QuantPlan, specs: Mapping[str, QuantSpec]
) -> tuple[str, ...]:
    """The quantized products of a weight that `correct_biases` leaves out, by node name."""
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    corrected = {product.node for product in _products(model, plan, specs)}
    return tuple(
        node.name or ""
        for node in model.graph
        if node.name in chosen - corrected
        and ops.is_standard(node, "Conv", "Gemm", "MatMul")
        and ops.is_constant(node.inputs[1])
    )


_LEAST_SHARE = 0.02
"""A channel that hardly ever passes says little about its mean: no more than fifty times its error
goes into its bias."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A node whose bias can be corrected; the bias is input `slot` of `holder`."""

    node: str
    target: Target
    holder: str
    slot: int
    bias: Array


def _products(model: ir.Model, plan: QuantPlan, specs: Mapping[str, QuantSpec]) -> list[_Product]:
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    nodes = [node for node in model.graph if node.name in chosen]
    found = [_product(node, specs[node.op_type]) for node in nodes]
    return [product for product in found if product is not None]


def _product(node: ir.Node, spec: QuantSpec) -> _Product | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or spec.weight_axis is None:
        return None
    weight = ops.constant(node.inputs[1])
    holder, slot = (node, spec.bias) if spec.bias is not None else bias_behind(node) or (node, None)
    if weight is None or slot is None:
        return None
    channels = int(weight.shape.numpy()[spec.weight_axis(NodeView(node))])
    operand = holder.inputs[slot] if slot < len(holder.inputs) else None
    row = ops.constant(operand)
    if operand is not None and (row is None or row.size not in (1, channels)):
        return None
    bias = np.zeros(1) if row is None else row.numpy().reshape(-1)
    output = holder.outputs[0]
    low, high = _kept(output)
    target = Target(output.name or "", channels, node.op_type != "Conv", low, high)
    spread = np.broadcast_to(bias, channels).astype(np.float32)
    return _Product(node.name or "", target, holder.name or "", slot, spread)


def _kept(value: ir.Value) -> tuple[float, float]:
    """The numbers between which all that reads a value tells them apart."""
    readers = value.consumers()
    if len(readers) == 1 and not value.is_graph_output():
        if ops.is_standard(readers[0], "Relu"):
            return 0.0, math.inf
        if ops.is_standard(readers[0], "Clip") and readers[0].inputs[0] is value:
            return clip_bounds(readers[0])
    return -math.inf, math.inf
