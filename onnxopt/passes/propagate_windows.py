"""The dims of operators that slide a window or stretch an image: convolutions, pools, Resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxopt import ops
from onnxopt.passes.propagate import Dims, DimsRule, Place, Unknown
from onnxopt.passes.symbols import Dim, Names, exact_quotient


def _conv(place: Place) -> list[Dims | None]:
    weight = place.rank_known(1)
    image = place.dims(0)
    if image is None:
        # The image has as many axes as the weight, or the node does not run.
        return [(place.facts.names.fresh(), weight[0], *_fresh(place, len(weight) - 2))]
    return [(image[0], weight[0], *_windows(place, image[2:], _kernel(place, weight)))]


def _pool(place: Place) -> list[Dims | None]:
    image = place.rank_known(0)
    kernel = place.ints_attribute("kernel_shape")
    if kernel is None or place.int_attribute("ceil_mode", 0):
        # How a window that hangs over the edge counts has changed between versions.
        raise Unknown("windows")
    dims = (*image[:2], *_windows(place, image[2:], kernel))
    return [dims] * len(place.node.outputs)


def _fresh(place: Place, count: int) -> list[Dim]:
    return [place.facts.names.fresh() for _ in range(count)]


def _kernel(place: Place, weight: Dims) -> list[int]:
    kernel: Sequence[Dim] = place.ints_attribute("kernel_shape") or weight[2:]
    sizes = [size for size in kernel if isinstance(size, int)]
    if len(sizes) != len(weight) - 2:
        raise Unknown("kernel")
    return sizes


def _windows(place: Place, image: Sequence[Dim], kernel: Sequence[int]) -> list[Dim]:
    """How many windows fit along each axis of the image."""
    names, count = place.facts.names, len(image)
    strides = place.ints_attribute("strides") or [1] * count
    dilations = place.ints_attribute("dilations") or [1] * count
    mode = place.text_attribute("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        return [_floor(names, d + (s - 1), s) for d, s in zip(image, strides, strict=True)]
    pads = place.ints_attribute("pads") or [0] * (2 * count)
    if mode == "VALID":
        pads = [0] * (2 * count)
    result: list[Dim] = []
    for axis, size in enumerate(image):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        room = size + (pads[axis] + pads[axis + count] - reach)
        result.append(_floor(names, room, strides[axis]) + 1)
    return result


def _floor(names: Names, dim: Dim, divisor: int) -> Dim:
    found = names.floor_divide(dim, divisor)
    if found is None:
        raise Unknown("stride")
    return found


def _conv_transpose(place: Place) -> list[Dims | None]:
    image, weight = place.rank_known(0), place.rank_known(1)
    spatial, kernel = image[2:], _kernel(place, weight)
    group = place.int_attribute("group", 1)
    return [(image[0], weight[1] * group, *_stretched(place, spatial, kernel))]


def _stretched(place: Place, image: Sequence[Dim], kernel: Sequence[int]) -> Sequence[Dim]:
    given = place.ints_attribute("output_shape")
    if given is not None:
        return given[-len(image) :]
    count = len(image)
    strides = place.ints_attribute("strides") or [1] * count
    dilations = place.ints_attribute("dilations") or [1] * count
    extra = place.ints_attribute("output_padding") or [0] * count
    mode = place.text_attribute("auto_pad", "NOTSET")
    if mode not in ("NOTSET", ""):
        raise Unknown("auto_pad")
    pads = place.ints_attribute("pads") or [0] * (2 * count)
    return [
        (size - 1) * strides[axis]
        + (extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - pads[axis] - pads[axis + count])
        for axis, size in enumerate(image)
    ]


def _global_pool(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    return [(*dims[:2], *[1] * (len(dims) - 2))]


def _resize(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    if place.ints_attribute("axes") is not None:
        raise Unknown("axes")
    if place.text_attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unknown("policy")
    sizes = place.items(3)
    if sizes is not None:
        return [tuple(sizes)]
    return [_scaled(place, dims, 1 if place.opset < 11 else 2)]


def _upsample(place: Place) -> list[Dims | None]:
    return [_scaled(place, place.rank_known(0), 1)]


def _scaled(place: Place, dims: Dims, index: int) -> Dims:
    attribute = place.node.attributes.get("scales")
    tensor = ops.constant(place.input(index))
    if attribute is not None and not attribute.is_ref():
        scales = [float(np.float32(scale)) for scale in attribute.as_floats()]
    elif tensor is not None and tensor.size == len(dims):
        scales = [float(scale) for scale in tensor.numpy()]
    else:
        raise Unknown("scales")
    return tuple(_scale(place.facts.names, d, s) for d, s in zip(dims, scales, strict=True))


def _scale(names: Names, dim: Dim, scale: float) -> Dim:
    if scale == int(scale):
        return dim * int(scale)
    if isinstance(dim, int):
        return int(np.float32(dim) * np.float32(scale))
    return names.of(f"scaled by {scale!r}", dim, natural=True)


def _depth_to_space(place: Place) -> list[Dims | None]:
    batch, channels, height, width = place.rank_known(0)
    block = place.int_attribute("blocksize", 1)
    depth = exact_quotient(channels, block * block)
    if depth is None:
        raise Unknown("channels")
    return [(batch, depth, height * block, width * block)]


def _recurrent(place: Place) -> list[Dims | None]:
    sequence, weight = place.rank_known(0), place.rank_known(2)
    hidden = weight[2]
    directions = weight[0]
    if place.int_attribute("layout", 0):
        state: Dims = (sequence[0], directions, hidden)
        return [(*sequence[:2], directions, hidden), state, state]
    state = (directions, sequence[1], hidden)
    return [(sequence[0], directions, sequence[1], hidden), state, state]


WINDOW_RULES: dict[str, DimsRule] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "GRU": _recurrent,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "LSTM": _recurrent,
    "LpPool": _pool,
    "MaxPool": _pool,
    "RNN": _recurrent,
    "Resize": _resize,
    "Upsample": _upsample,
}
