"""Codes of weights and biases for a plan: the methods of quantize/ that need calibration, in order.

`saturation` makes the scales safe for 16-bit sums, `rounding` chooses codes that make up for each
other's errors, `bias` takes back the shift of the means that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import BadInput
from onnxopt.quantize.correction import correct_biases
from onnxopt.quantize.records import QuantPlan, Range
from onnxopt.quantize.rounding import Bounds, compensated_codes, output_error
from onnxopt.quantize.saturation import (
    from_kernel_rows,
    kernel_rows,
    nearest_safe_codes,
    safe_scale,
    top_code,
)
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.specs import QuantSpec, Role

Array = np.ndarray[Any, np.dtype[Any]]

METHODS = ("saturation", "rounding", "bias")
"""What `prepare_weights` can do, in the order in which it does it."""

ADDS_IN_16_BITS = frozenset({"cpu", "openvino", "generic"})
"""Targets that may run on a CPU that adds two products in 16 bits."""

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Scales to try, as parts of the one that covers every weight."""


class Moments(Protocol):
    """Of the inputs of a product, in G groups of K = channels of the group times kernel size.

    `mean` is float64 [G, K], `cov` the central second moments, float64 [G, K, K]; K runs as in the
    weight: channel, kh, kw. A depthwise convolution has a group for each channel.
    """

    @property
    def mean(self) -> Array: ...
    @property
    def cov(self) -> Array: ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """What calibration found: ranges by value, moments by node, and the data itself.

    Methods that lack what they need do without: no moments, no compensation; no feeds, no bias
    correction.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    feeds: Iterable[Mapping[str, Any]] = ()


Codes = dict[str, tuple[Array, Array]]
"""int8 codes of a weight and their float32 scales along its channel axis, by node name."""


def prepare_weights(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    statistics: Statistics,
    *,
    methods: Sequence[str] = METHODS,
    threads: int = 0,
) -> tuple[Codes, dict[str, Array]]:
    """Codes and biases for `insert`: (codes, biases), both by node name.

    Args:
        model: The float model.
        plan: Which nodes are quantized, the grids of what they read, and the bits of weights.
        specs: How each operator is quantized.
        statistics: What calibration found.
        methods: Which of `METHODS` to use; without any, weights are rounded to nearest.
        threads: Threads of the sessions that bias correction opens.

    Raises:
        BadInput: A method is unknown.
        RuntimeFailed: A feed does not run.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise BadInput(
            f"there is no weight method {unknown[0]!r}", hint=f"choose from {', '.join(METHODS)}"
        )
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    codes: Codes = {}
    for node in model.graph:
        if node.name in chosen and specs[node.op_type].role is Role.PRODUCT:
            found = _codes(node, plan, specs[node.op_type], statistics, frozenset(methods))
            if found is not None:
                codes[node.name or ""] = found
    if "bias" not in methods:
        return codes, {}
    return codes, correct_biases(model, plan, specs, codes, statistics.feeds, threads=threads)


def _codes(
    node: ir.Node,
    plan: QuantPlan,
    spec: QuantSpec,
    statistics: Statistics,
    methods: frozenset[str],
) -> tuple[Array, Array] | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or spec.weight_axis is None:
        return None
    tensor, source = ops.constant(node.inputs[1]), node.inputs[0]
    if tensor is None or source is None:
        return None
    weight, axis = tensor.numpy(), spec.weight_axis(NodeView(node))
    grid = plan.grids[source.name or ""]
    limit = 2 ** (plan.weight_bits.get(node.name or "", 8) - 1) - 1
    top = None
    depthwise = node.op_type == "Conv" and weight.shape[1] == 1
    if "saturation" in methods and plan.target in ADDS_IN_16_BITS and not depthwise:
        top = top_code(grid, statistics.ranges.get(source.name or ""))
    bounds = Bounds(limit, top)
    rows = kernel_rows(weight, node.op_type, axis)
    moments = statistics.moments.get(node.name or "") if "rounding" in methods else None
    if moments is None:
        scale = safe_scale(rows, top=top, limit=limit)
        found = nearest_safe_codes(rows, scale, top=top, limit=limit)
    else:
        order = (
            kernel_rows(np.arange(rows.shape[1]).reshape(1, *weight.shape[1:]), node.op_type, 0)[0]
            if node.op_type == "Conv"
            else np.arange(rows.shape[1])
        )
        second = input_moments(moments, order, grid.scale, centred="bias" in methods)
        found, scale = _compensated(rows, second, bounds)
    return from_kernel_rows(found, weight.shape, node.op_type, axis), scale


def input_moments(moments: Moments, order: Array, step: float, *, centred: bool) -> Array:
    """The second moments [G, K, K] that an error of the weights meets, K in `order`.

    The inputs' own rounding to steps of `step` adds its variance. What the mean does is left out
    where a bias takes it back afterwards (`centred`).
    """
    second = moments.cov[:, order][:, :, order]
    if not centred:
        mean = moments.mean[:, order]
        second = second + mean[:, :, None] * mean[:, None, :]
    return np.asarray(second + np.eye(len(order)) * step**2 / 12)


def _compensated(rows: Array, second: Array, bounds: Bounds) -> tuple[Array, Array]:
    """Codes [channels, K] on the best scale, and that scale [channels]."""
    grouped = rows.reshape(len(second), -1, rows.shape[1])
    scale = best_scale(grouped, second, bounds)
    codes = compensated_codes(grouped, scale, second, bounds=bounds)
    return codes.reshape(rows.shape), scale.reshape(-1)


def best_scale(rows: Array, second: Array, bounds: Bounds) -> Array:
    """Of the safe scale and finer ones that clip, each channel's best when rounded to nearest.

    `rows` are [G, N, K], `second` [G, K, K]; the scales float32 [G, N].
    """
    flat = rows.reshape(-1, rows.shape[-1])
    full = safe_scale(flat, top=bounds.top, limit=bounds.limit)
    best, least = full, np.full(rows.shape[:2], np.inf)
    for shrink in SHRINKS:
        scale = (full * np.float32(shrink)).astype(np.float32)
        codes = nearest_safe_codes(flat, scale, top=bounds.top, limit=bounds.limit)
        error = output_error(rows, codes.reshape(rows.shape), scale.reshape(rows.shape[:2]), second)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better.reshape(-1), scale, best)
    return np.asarray(best.reshape(rows.shape[:2]))
