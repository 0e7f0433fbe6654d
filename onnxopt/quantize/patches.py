"""The vectors that a product multiplies its weights with: patches of images, rows of matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.rewrite.hit import NodeView

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Window:
    """How a Conv moves over its input: a tuple has one number for each spatial axis.

    `pads` are those before and then those after each axis, or None where `auto_pad` makes them.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    upper: bool
    group: int

    def vectors(self, image: Array, limit: int, seed: int) -> Array:
        """Patches of an image [N, C, ...]: float32 [group, patches, C / group * kernel].

        The elements of a patch are in the order of a weight [M, C / group, ...]. Where there are
        more than `limit` a sample, so many are drawn at random.
        """
        axes = tuple(range(2, image.ndim))
        seen = np.lib.stride_tricks.sliding_window_view(self._padded(image), self._reach, axis=axes)
        steps = (slice(None, None, step) for step in (1, 1, *self.strides, *self.dilations))
        windows = seen[tuple(steps)]
        chosen = self.places(image.shape, limit, seed)
        batch, *spots = np.unravel_index(chosen, (len(image), *self._counts(image.shape[2:])))
        # numpy puts the drawn places first, as other indices stand between them.
        index: tuple[Any, ...] = (batch, slice(None), *spots)
        patches = windows[index]
        return np.moveaxis(patches.reshape(len(chosen), self.group, -1), 1, 0)

    def places(self, shape: tuple[int, ...], limit: int, seed: int) -> Array:
        """Where in the output [N, ...], counted from 0, the `vectors` of such an image lie."""
        return drawn(shape[0] * math.prod(self._counts(shape[2:])), limit * shape[0], seed)

    @property
    def _reach(self) -> tuple[int, ...]:
        """How many places along each axis the kernel spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def _counts(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The size of the output along each axis, for an image of these sizes."""
        pads, axes = self.padding(sizes), len(sizes)
        rows = zip(sizes, pads[:axes], pads[axes:], self._reach, self.strides, strict=True)
        return tuple((size + a + b - reach) // step + 1 for size, a, b, reach, step in rows)

    def _padded(self, image: Array) -> Array:
        count = len(self.kernel)
        pads = self.padding(image.shape[2:])
        if not any(pads):
            return image
        spatial = zip(pads[:count], pads[count:], strict=True)
        return np.pad(image, [(0, 0), (0, 0), *spatial])

    def padding(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """What is added before and then behind each axis of an image of these sizes."""
        return self.pads if self.pads is not None else self._automatic(sizes)

    def _automatic(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The padding of SAME_UPPER or SAME_LOWER."""
        before, after = [], []
        rows = zip(sizes, self.kernel, self.strides, self.dilations, strict=True)
        for size, kernel, stride, dilation in rows:
            last = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1
            total = max(last - size, 0)
            more, less = total - total // 2, total // 2
            before.append(less if self.upper else more)
            after.append(more if self.upper else less)
        return (*before, *after)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a matrix that a Gemm or MatMul multiplies; its columns where `transposed`."""

    transposed: bool = False

    def vectors(self, array: Array, limit: int, seed: int) -> Array:
        """Rows of an array [..., R, K]: [1, rows, K], drawn at random above `limit` a sample.

        The first axis counts samples; a matrix has one row for each.
        """
        turned = self.turned(array)
        flat = turned.reshape(-1, turned.shape[-1])
        chosen = self.places(array.shape, limit, seed)
        return (flat if len(chosen) == len(flat) else flat[chosen])[None]

    def places(self, shape: tuple[int, ...], limit: int, seed: int) -> Array:
        """Where among all rows, counted from 0, the `vectors` of an array of such a shape lie."""
        samples = shape[0] if len(shape) > 1 else 1
        width = shape[-2 if self.transposed and len(shape) > 1 else -1]
        return drawn(math.prod(shape) // width, limit * samples, seed)

    def turned(self, array: Array) -> Array:
        """What is read or given, each vector along the last axis; a vector alone is one anyway."""
        return np.swapaxes(array, -1, -2) if self.transposed and array.ndim > 1 else array


Vectors = Window | Rows


def drawn(total: int, limit: int, seed: int) -> Array:
    """`limit` of the indices below `total` in order, or all of them."""
    if total <= limit:
        return np.arange(total)
    # Evenly spaced ones would see the same rows of every image.
    random = np.random.default_rng((seed, total))
    return np.sort(random.choice(total, limit, replace=False, shuffle=False))


def vectors_of(node: ir.Node) -> tuple[ir.Value, Vectors] | str:
    """The activation that a product reads and its vectors, or why there are none."""
    if not ops.is_standard(node, "Conv", "Gemm", "MatMul"):
        return f"{node.op_type} is no product with a weight"
    first, second = node.inputs[0], node.inputs[1]
    if first is None or second is None:
        return "an input is missing"
    weight = ops.constant(second)
    if weight is not None and not ops.is_constant(first):
        view = NodeView(node)
        if node.op_type == "Conv":
            return first, _window(view, tuple(weight.shape.numpy()[2:]))
        if node.op_type == "Gemm":
            return first, Rows(bool(view.attr("transA", 0)))
        return (first, Rows()) if len(weight.shape) == 2 else "its weight is no matrix"
    weight = ops.constant(first)
    if node.op_type == "MatMul" and weight is not None and not ops.is_constant(second):
        return (second, Rows(True)) if len(weight.shape) == 2 else "its weight is no matrix"
    return "its weight is computed"


def _window(view: NodeView, kernel: tuple[int, ...]) -> Window:
    ones, none = (1,) * len(kernel), (0,) * (2 * len(kernel))
    mode = view.attr("auto_pad", "NOTSET")
    pads = tuple(view.attr("pads", none)) if mode == "NOTSET" else none
    return Window(
        kernel,
        tuple(view.attr("strides", ones)),
        tuple(view.attr("dilations", ones)),
        None if mode in ("SAME_UPPER", "SAME_LOWER") else pads,
        mode == "SAME_UPPER",
        int(view.attr("group", 1)),
    )
