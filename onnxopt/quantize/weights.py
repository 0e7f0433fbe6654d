"""Codes of weights and biases for a plan: the methods that need calibration, in their order.

`equalize`, `order` and `centre` prepare the float model (see ready.py). `saturation` makes
the scales safe for 16-bit sums, `rounding` chooses codes that make up for each other's errors,
`bias` takes back the shift of the means that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize import covariance
from onnxopt.quantize.correction import correct_biases
from onnxopt.quantize.covariance import Covariance, each_covariance
from onnxopt.quantize.plan import bias_behind
from onnxopt.quantize.records import QuantPlan, Range
from onnxopt.quantize.rounding import Bounds, compensated_codes
from onnxopt.quantize.saturation import (
    from_kernel_rows,
    is_depthwise,
    kernel_order,
    kernel_rows,
    nearest_safe_codes,
    safe_scale,
    top_code,
)
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.specs import QuantSpec

Array = np.ndarray[Any, np.dtype[Any]]

DEFAULT = ("order", "centre", "saturation", "smoothing", "rounding", "bias")
METHODS = ("equalize", *DEFAULT)
"""Weight methods in the order in which they are applied; "smoothing" is for dynamic codes, see
smoothing.py, and `prepare_weights` leaves it to others."""

ADDS_IN_16_BITS = frozenset({"cpu", "openvino", "generic"})
"""Targets that may run on a CPU that adds two products in 16 bits."""

LONGEST = 2304
"""Rows longer than this are rounded to nearest: the cost of compensation grows with its cube."""

Codes = dict[str, tuple[Array, Array]]
"""int8 codes of a weight and their float32 scales along its channel axis, by node name."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What calibration found: ranges by value, moments by node, and the samples themselves.

    Moments that are missing are measured on the samples, and let go after use. Without samples
    there is no compensation, and no bias correction.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    moments: Mapping[str, Covariance] = field(default_factory=dict)
    feeds: Iterable[Feed] = ()


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
        threads: Threads of the sessions that measure.

    Raises:
        BadInput: A method is unknown, or an activation is not finite.
        RuntimeFailed: A feed does not run.
    """
    codes = weight_codes(model, plan, specs, statistics, methods=methods, threads=threads)
    if "bias" not in methods:
        return codes, {}
    return codes, correct_biases(model, plan, specs, codes, statistics.feeds, threads=threads)


def weight_codes(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    statistics: Statistics,
    *,
    methods: Sequence[str] = METHODS,
    threads: int = 0,
) -> Codes:
    """The codes that `prepare_weights` gives; "bias" among the methods says that one follows."""
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise BadInput(
            f"there is no weight method {unknown[0]!r}", hint=f"choose from {', '.join(METHODS)}"
        )
    jobs = {job.node.name or "": job for job in _jobs(model, plan, specs, statistics, methods)}
    codes: Codes = {}
    if "rounding" in methods:
        for name, moments in _moments(model, jobs, statistics, threads):
            codes[name] = jobs[name].codes(moments)
    for name in jobs.keys() - codes.keys():
        codes[name] = jobs[name].codes(None)
    return codes


@dataclass(frozen=True, slots=True)
class _Job:
    """A weight to be rounded: its node, channel axis, the step of its input, bounds of codes.

    Where it is `corrected`, a bias takes back what rounding does to the means.
    """

    node: ir.Node
    weight: ir.TensorProtocol
    axis: int
    step: float
    bounds: Bounds
    corrected: bool

    @property
    def length(self) -> int:
        shape = self.weight.shape.numpy()
        return int(np.prod(shape)) // max(shape[self.axis], 1)

    def codes(self, moments: Covariance | None) -> tuple[Array, Array]:
        weight, bounds, op_type = self.weight.numpy(), self.bounds, self.node.op_type
        rows = kernel_rows(weight, op_type, self.axis)
        scale = safe_scale(rows, top=bounds.top, limit=bounds.limit)
        if moments is None:
            found = nearest_safe_codes(rows, scale, top=bounds.top, limit=bounds.limit)
        else:
            order = kernel_order(weight.shape, op_type, self.axis)
            # The input's own rounding adds its variance to what an error of the weights meets.
            second = moments.shrunk(moments.centred if self.corrected else moments.second)
            second = second[:, order][:, :, order]
            second = second + np.eye(len(order)) * self.step**2 / 12
            groups = (len(second), len(rows) // len(second))
            found = compensated_codes(
                rows.reshape(*groups, len(order)), scale.reshape(groups), second, bounds=bounds
            ).reshape(rows.shape)
        return from_kernel_rows(found, weight.shape, op_type, self.axis), scale


def _jobs(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    statistics: Statistics,
    methods: Sequence[str],
) -> Iterator[_Job]:
    chosen = {choice.node for choice in plan.nodes if choice.quantize}
    for node in model.graph:
        if node.name not in chosen or not ops.is_standard(node, "Conv", "Gemm", "MatMul"):
            continue
        axis_of, source = specs[node.op_type].weight_axis, node.inputs[0]
        weight = ops.constant(node.inputs[1])
        if axis_of is None or weight is None or source is None:
            continue
        name = source.name or ""
        top = None
        if (
            "saturation" in methods
            and plan.target in ADDS_IN_16_BITS
            and not _is_depthwise(node, weight)
        ):
            top = top_code(plan.grids[name], statistics.ranges.get(name))
        limit = 2 ** (plan.weight_bits.get(node.name or "", 8) - 1) - 1
        yield _Job(
            node,
            weight,
            axis_of(NodeView(node)),
            plan.grids[name].scale,
            Bounds(limit, top),
            "bias" in methods and (node.op_type != "MatMul" or bias_behind(node) is not None),
        )


def _is_depthwise(node: ir.Node, weight: ir.TensorProtocol) -> bool:
    """Whether the kernel for one channel in, one out runs, which adds in 32 bits."""
    if node.op_type != "Conv":
        return False
    return is_depthwise(weight.shape.numpy(), int(NodeView(node).attr("group", 1)))


def _moments(
    model: ir.Model, jobs: Mapping[str, _Job], statistics: Statistics, threads: int
) -> Iterator[tuple[str, Covariance]]:
    """The moments of each job that can have them, a group of nodes at a time."""
    yield from ((name, statistics.moments[name]) for name in jobs if name in statistics.moments)
    missing = [
        name
        for name, job in jobs.items()
        if name not in statistics.moments
        and job.length <= LONGEST
        and not covariance.refusal(job.node)
    ]
    # An empty collection says that there is no data; an iterator has to be tried.
    if missing and statistics.feeds not in ((), []):
        yield from each_covariance(model, statistics.feeds, missing, threads=threads)
