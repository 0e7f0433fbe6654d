"""What values are like channel by channel: means for bias correction, ranges for equalization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize.calibrate import Progress
from onnxopt.quantize.observe import BUDGET_BYTES, Observer, activations
from onnxopt.quantize.spool import numbered

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGE_OPS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "InstanceNormalization",
        "LRN",
        "MaxPool",
    }
)
_PASSING = ops.ELEMENTWISE_UNARY | ops.ELEMENTWISE_BINARY | {"Clip", "Concat", "Sum"}
_ROW_OPS = frozenset({"Gemm", "LayerNormalization", "MatMul", "Softmax"})


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """The numbers of each channel over all samples.

    `mean`, `low` and `high` are float64 [channels], `count` is how many elements a channel has, and
    `axis` where the channels lie, counted from the front.
    """

    mean: Array
    low: Array
    high: Array
    count: int
    axis: int


def channel_statistics(
    model: ir.Model,
    feeds: Iterable[Feed],
    names: Sequence[str],
    *,
    axes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    threads: int = 0,
    budget_bytes: int = BUDGET_BYTES,
) -> dict[str, ChannelStatistics]:
    """Mean and extremes of the channels of each named value, in one reading of the data.

    Channels lie along axis 1 of images and along the last axis of rows. Rows are what has two dims
    or fewer, and what a MatMul, Gemm or LayerNormalization stands by; where no such operator tells,
    values of four dims or more are images. A value that is empty in every sample is left out.

    Args:
        model: The model; quantized ones are fine. It is not changed.
        feeds: The samples.
        names: Float32 values of the main graph.
        axes: Axes by name, negative ones from the end, for values where the above is wrong.
        progress: Called before each sample with the share done (0 if not known) and a word.
        threads: Threads of onnxruntime inside an operator, 0 for its own choice.
        budget_bytes: How much one run of the model may hand out.

    Raises:
        BadInput: A name is unknown, a value is not finite, its channels change in number, or there
            is no data.
        RuntimeFailed: onnxruntime can't load or run the model.
    """
    found = activations(model)
    chosen = found.choose(names)
    observer = Observer(found, chosen, threads=threads, budget_bytes=budget_bytes)
    sums: dict[str, _Sums] = {}
    for number, feed in numbered(feeds):
        if progress is not None:
            progress(0.0, f"measuring channels, sample {number}")
        for name, array in observer.arrays(feed, number):
            if array.size:
                axis = (axes or {}).get(name)
                if axis is None:
                    axis = channel_axis(found.values[name], array.ndim)
                part = _Sums.of(array, axis)
                sums[name] = part if name not in sums else sums[name].joined(part, name)
    return {name: sums[name].finished() for name in chosen if name in sums}


def channel_axis(value: ir.Value, rank: int) -> int:
    """The axis along which the channels of a value of this rank lie."""
    if rank <= 2:
        return max(rank - 1, 0)
    return 1 if _is_image(value, rank) else rank - 1


def _is_image(value: ir.Value, rank: int) -> bool:
    """Whether the nearest operator that knows about channels takes or gives images."""
    seen = {value}
    nearest = [value]
    while nearest:
        nodes = [node for each in nearest for node in _beside(each)]
        kinds = {node.op_type for node in nodes if ops.is_standard(node)}
        if kinds & _IMAGE_OPS or kinds & _ROW_OPS:
            return bool(kinds & _IMAGE_OPS)
        passing = [node for node in nodes if ops.is_standard(node, *_PASSING)]
        around = [other for node in passing for other in (*node.inputs, *node.outputs)]
        nearest = [v for v in dict.fromkeys(around) if v is not None and v not in seen]
        nearest = [each for each in nearest if not ops.is_constant(each)]
        seen.update(nearest)
    return rank >= 4


def _beside(value: ir.Value) -> list[ir.Node]:
    producer = value.producer()
    return [*([] if producer is None else [producer]), *value.consumers()]


@dataclass(frozen=True, slots=True)
class _Sums:
    total: Array
    low: Array
    high: Array
    count: int
    axis: int

    @classmethod
    def of(cls, array: Array, axis: int) -> _Sums:
        if not -array.ndim <= axis < max(array.ndim, 1):
            raise BadInput(f"a value of {array.ndim} dims has no axis {axis}")
        front = axis % max(array.ndim, 1)
        channels = array.shape[front] if array.ndim else 1
        before = int(np.prod(array.shape[:front]))
        parts = array.reshape(before, channels, -1)
        if parts.shape[2] == 1:
            rows = parts[:, :, 0]
            total = rows.sum(axis=0, dtype=np.float64)
            return cls(total, rows.min(axis=0), rows.max(axis=0), before, front)
        # Along the last axis numpy adds up in pairs, which float32 is enough for.
        total = parts.sum(axis=2).sum(axis=0, dtype=np.float64)
        low, high = parts.min(axis=2).min(axis=0), parts.max(axis=2).max(axis=0)
        return cls(total, low, high, before * parts.shape[2], front)

    def joined(self, other: _Sums, name: str) -> _Sums:
        if self.total.shape != other.total.shape:
            raise BadInput(
                f"the value {name!r} has {self.total.size} channels in one sample and "
                f"{other.total.size} in another",
                hint="name the axis of its channels, or leave it out",
            )
        return _Sums(
            self.total + other.total,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.count + other.count,
            self.axis,
        )

    def finished(self) -> ChannelStatistics:
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        return ChannelStatistics(self.total / self.count, low, high, self.count, self.axis)
