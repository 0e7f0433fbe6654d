"""Resize in all its modes: along each axis a matrix that says what an output place is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from onnxopt.distill.kernels import Call, Tensor, ints, kernel


@kernel("Upsample")
def _upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    given = scales.tolist() if scales is not None else list(call.attr("scales"))
    mode = call.text("mode", "nearest")
    return _resized(call, x, given, None, mode, "asymmetric", "floor")


@kernel("Resize")
def _resize(
    call: Call,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if call.opset < 11:
        # Opset 10 has no region of interest.
        scales = roi
    if call.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise call.refuse("it crops as TensorFlow does")
    if call.attr("antialias", 0):
        raise call.refuse("it smooths what it makes smaller")
    given = None if scales is None or not scales.numel() else scales.tolist()
    wanted = None if sizes is None or not sizes.numel() else ints(sizes)
    given, wanted = _all_axes(call, x, given, wanted)
    where = call.text("coordinate_transformation_mode", "half_pixel")
    if call.opset < 11:
        where = "asymmetric"
    mode, nearest = call.text("mode", "nearest"), call.text("nearest_mode", "round_prefer_floor")
    return _resized(call, x, given, wanted, mode, where, "floor" if call.opset < 11 else nearest)


def _all_axes(
    call: Call, x: Tensor, scales: list[float] | None, sizes: list[int] | None
) -> tuple[list[float] | None, list[int] | None]:
    """Scales and sizes with an entry for each axis; those not named stay as they are."""
    axes = call.attr("axes")
    if axes is None:
        return scales, sizes
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("it keeps the aspect ratio")
    whole_scales, whole_sizes = [1.0] * x.dim(), list(x.shape)
    for place, axis in enumerate(axes):
        if scales is not None:
            whole_scales[axis] = scales[place]
        if sizes is not None:
            whole_sizes[axis] = sizes[place]
    return (None, whole_sizes) if sizes is not None else (whole_scales, None)


def _resized(
    call: Call,
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    mode: str,
    where: str,
    nearest: str,
) -> Tensor:
    for axis in range(x.dim()):
        old = x.shape[axis]
        if sizes is not None:
            new, scale = sizes[axis], sizes[axis] / old
        else:
            assert scales is not None
            new, scale = math.floor(old * scales[axis]), scales[axis]
        if new == old and scale == 1:
            continue
        places = _places(call, old, new, scale, where)
        if mode == "nearest":
            x = x.index_select(axis, _nearest(places, nearest, old).to(x.device))
        else:
            matrix = _weights(call, places, old, cubic=mode == "cubic").to(x)
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
    return x


def _places(call: Call, old: int, new: int, scale: float, where: str) -> Tensor:
    """Where each output place lies in the input, as float64 [new]."""
    index = torch.arange(new, dtype=torch.float64)
    if where == "half_pixel":
        return (index + 0.5) / scale - 0.5
    if where == "pytorch_half_pixel":
        return (index + 0.5) / scale - 0.5 if new > 1 else torch.zeros(new, dtype=torch.float64)
    if where == "align_corners":
        return index * (old - 1) / (new - 1) if new > 1 else index * 0
    if where == "asymmetric":
        return index / scale
    if where == "half_pixel_symmetric":
        adjust = new / (scale * old)
        centre = old / 2 * (1 - adjust)
        return centre + (index + 0.5) / scale - 0.5
    raise call.refuse(f"its coordinates are {where!r}")


def _nearest(places: Tensor, how: str, old: int) -> Tensor:
    if how == "round_prefer_floor":
        found = torch.ceil(places - 0.5)
    elif how == "round_prefer_ceil":
        found = torch.floor(places + 0.5)
    else:
        found = torch.floor(places) if how == "floor" else torch.ceil(places)
    return found.clamp(0, old - 1).to(torch.int64)


def _weights(call: Call, places: Tensor, old: int, *, cubic: bool) -> Tensor:
    """float64 [new, old]: what each input place gives to an output place."""
    first = torch.floor(places)
    share = places - first
    if cubic:
        a = call.attr("cubic_coeff_a", -0.75)
        near, far = _cubic_near(share, a), _cubic_far(1 + share, a)
        taps = {-1: far, 0: near, 1: _cubic_near(1 - share, a), 2: _cubic_far(2 - share, a)}
    else:
        taps = {0: 1 - share, 1: share}
    matrix = torch.zeros(len(places), old, dtype=torch.float64)
    for offset, weight in taps.items():
        place = first + offset
        if cubic and call.attr("exclude_outside", 0):
            weight = torch.where((place >= 0) & (place < old), weight, torch.zeros_like(weight))
        column = place.clamp(0, old - 1).to(torch.int64).unsqueeze(1)
        matrix.scatter_add_(1, column, weight.unsqueeze(1))
    return matrix / matrix.sum(1, keepdim=True) if cubic else matrix


def _cubic_near(t: Tensor, a: float) -> Tensor:
    return (a + 2) * t**3 - (a + 3) * t**2 + 1


def _cubic_far(t: Tensor, a: float) -> Tensor:
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
