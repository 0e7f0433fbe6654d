"""int8 codes of a matrix, a scale a row: to nearest, or making up for each other on data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.quantize.covariance import each_covariance, refusal
from onnxopt.quantize.rounding import Bounds, compensated_codes
from onnxopt.quantize.saturation import nearest_safe_codes, safe_scale
from onnxopt.quantize.sites import Site, is_transposed
from onnxopt.quantize.weights import LONGEST

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 22
"""Numbers that are looked at together: several float64 copies are made of them."""


@dataclass(frozen=True, slots=True)
class RowCodes:
    """int8 codes [rows, columns], and the float32 scale of each row."""

    codes: Array
    scale: Array


def coded_rows(rows: Array, *, top: int | None = 255) -> RowCodes:
    """Rows [N, K] as codes to nearest, chunk by chunk.

    `top` is the largest code of what they are multiplied with, None where nothing is added up in
    16 bits, see saturation.safe_scale.
    """
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), np.float32)
    step = max(1, _CHUNK // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step])
        scale = safe_scale(part, top=top)
        codes[start : start + step] = nearest_safe_codes(part, scale, top=top)
        scales[start : start + step] = scale
    return RowCodes(codes, scales)


def product_rows(site: Site) -> Array:
    """The weight of a product as rows [N, K], one an output channel."""
    tensor = ops.constant(site.weight)
    assert tensor is not None
    array: Array = tensor.numpy()
    return array if is_transposed(site.node) else array.T


def can_compensate(model: ir.Model, site: Site) -> bool:
    """Whether the second moments of what the site reads can be had, at a bearable cost."""
    return (
        site.kind == "product"
        and site.node.graph is model.graph
        and not refusal(site.node)
        and product_rows(site).shape[1] <= LONGEST
    )


def compensated(
    model: ir.Model,
    found: Sequence[Site],
    feeds: Iterable[Feed],
    *,
    factors: Mapping[str, Array] | None = None,
    threads: int = 0,
) -> Iterator[tuple[str, RowCodes]]:
    """Codes of the products that make up for each other's errors on the feeds, by node name.

    `factors` by the name of what a product reads are what its channels are going to be divided by,
    and the weights multiplied with, see smoothing.

    Raises:
        BadInput: A value is not finite.
        RuntimeFailed: A feed does not run.
    """
    jobs = {site.name: site for site in found if can_compensate(model, site)}
    if not jobs:
        return
    for name, moments in each_covariance(model, feeds, list(jobs), threads=threads):
        rows = np.ascontiguousarray(product_rows(jobs[name]))
        second = moments.shrunk(moments.second)
        source = jobs[name].node.inputs[0]
        divided = None if source is None else (factors or {}).get(source.name or "")
        if divided is not None:
            rows = (rows * divided).astype(np.float32)
            second = second / (divided[:, None] * divided)
        scale = safe_scale(rows)
        codes = compensated_codes(rows[None], scale[None], second, bounds=Bounds(top=255))
        yield name, RowCodes(codes[0], scale)
