"""Variations of inputs: the teacher answers for whatever is shown to it, so no label goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional

from onnxopt.check.data import function_of
from onnxopt.check.inputs import Feed
from onnxopt.distill.settings import AUTO, Augment
from onnxopt.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
Change: TypeAlias = Callable[[Feed, np.random.Generator], Feed]
Picture: TypeAlias = Callable[[Array, np.random.Generator], Array]

CROP = "crop"
PICTURES = "flip,crop,colour,mixup,cut"
"""What "auto" means for inputs that are pictures; others stay as they are."""
_LEAST_AREA = 0.4
_FARTHEST = 0.125
_CONTRAST = 0.2
_BRIGHTNESS = 0.1
_NOISE = 0.05
_SMALLEST = 8


def takes_parts(spec: Augment) -> bool:
    """Whether pictures are cropped, which is best done before they lose pixels."""
    return isinstance(spec, str) and (spec == AUTO or CROP in spec.split(","))


def augmenter(spec: Augment, feed: Feed, *, cropped: bool = False) -> Change | None:
    """The function that varies feeds, or None where they stay as they are.

    Args:
        spec: "auto", "none", names from NAMES with commas between them, `module:function`, or a
            function. A function takes a feed (input name to array, several samples along the first
            axis) and a numpy random generator, and gives a feed of the same names.
        feed: A sample, by which pictures are known: float arrays of rank 4 with 1 or 3 channels.
        cropped: The pictures will come as parts of larger ones already.

    Raises:
        BadInput: There is no such variation, or none of the inputs is a picture.
    """
    if callable(spec):
        return _own(spec, getattr(spec, "__name__", "the function"))
    if ":" in spec:
        return _own(function_of(spec), spec)
    pictures = {
        name: axis for name, value in feed.items() if (axis := _channels(value)) is not None
    }
    if spec == AUTO:
        spec = PICTURES if pictures else "none"
    if spec in ("", "none"):
        return None
    names = spec.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise BadInput(
            f"there is no variation {unknown[0]!r}",
            hint=f"choose from {', '.join(NAMES)}, auto and none, or give module:function",
        )
    if not pictures and set(names) - {"noise", "mixup"}:
        raise BadInput(
            f"none of the inputs is a picture, which {spec!r} could vary",
            hint="use noise or mixup, or give module:function",
        )
    return _builtin([name for name in names if not (cropped and name == CROP)], pictures)


def varied(feeds: Sequence[Feed], change: Change, random: np.random.Generator) -> list[Feed]:
    """The feeds with a change to each: made to all as one where they have the same shapes.

    So a picture is mixed with others where a model takes one at a time, too.
    """
    shapes = {tuple((name, np.shape(value)) for name, value in feed.items()) for feed in feeds}
    if len(feeds) < 2 or len(shapes) > 1 or not all(shape for _, shape in next(iter(shapes))):
        return [change(feed, random) for feed in feeds]
    joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    parts = {name: np.split(value, len(feeds)) for name, value in change(joined, random).items()}
    return [{name: parts[name][number] for name in joined} for number in range(len(feeds))]


def _own(function: Callable[..., Any], name: str) -> Change:
    def change(feed: Feed, random: np.random.Generator) -> Feed:
        found = function({key: np.copy(value) for key, value in feed.items()}, random)
        if not isinstance(found, Mapping) or set(found) != set(feed):
            raise BadInput(
                f"{name} gave {sorted(found) if isinstance(found, Mapping) else type(found)}",
                hint=f"it must give a dict with the inputs {', '.join(sorted(feed))}",
            )
        return {
            key: np.ascontiguousarray(found[key], dtype=np.asarray(value).dtype)
            for key, value in feed.items()
        }

    return change


def _builtin(names: Sequence[str], pictures: Mapping[str, int]) -> Change:
    def change(feed: Feed, random: np.random.Generator) -> Feed:
        varied = dict(feed)
        for name in names:
            if name == "mixup":
                varied = _mixup(varied, random)
                continue
            if name == "cut":
                varied = _cut(varied, pictures, random)
                continue
            for key in pictures if name != "noise" else feed:
                channels = pictures.get(key, 1)
                turned = np.moveaxis(varied[key], channels, 1)
                varied[key] = np.moveaxis(NAMES[name](turned, random), 1, channels)
        return varied

    return change


def _channels(value: Any) -> int | None:
    """The axis of the channels, for an array that is a picture."""
    array = np.asarray(value)
    if array.ndim != 4 or array.dtype.kind != "f":
        return None
    for axis, sizes in ((1, array.shape[2:]), (3, array.shape[1:3])):
        if array.shape[axis] in (1, 3) and min(sizes) >= _SMALLEST:
            return axis
    return None


def _flip(x: Array, random: np.random.Generator) -> Array:
    """Each picture mirrored or not. float [N, C, H, W]."""
    turned = random.random(len(x)) < 0.5
    return np.where(turned[:, None, None, None], x[..., ::-1], x)


def _crop(x: Array, random: np.random.Generator) -> Array:
    """A part of each picture, of 40 % of its area or more, brought back to the full size."""
    count = len(x)
    area = random.uniform(_LEAST_AREA, 1.0, count)
    aspect = np.exp(random.uniform(-0.25, 0.25, count))
    height, width = (np.minimum(np.sqrt(area * side), 1.0) for side in (1 / aspect, aspect))
    top, left = (random.uniform(-1, 1, count) * (1 - side) for side in (height, width))
    zero = np.zeros(count)
    theta = np.stack([np.stack([width, zero, left], 1), np.stack([zero, height, top], 1)], 1)
    return _sampled(x, theta)


def _shift(x: Array, random: np.random.Generator) -> Array:
    """Each picture moved by up to an eighth of its size; what comes in is mirrored."""
    moves = random.uniform(-2 * _FARTHEST, 2 * _FARTHEST, (len(x), 2, 1))
    theta = np.concatenate([np.broadcast_to(np.eye(2), (len(x), 2, 2)), moves], 2)
    return _sampled(x, theta)


def _sampled(x: Array, theta: Array) -> Array:
    pictures = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    grid = functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32)), list(pictures.shape), align_corners=False
    )
    found = functional.grid_sample(
        pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return np.asarray(found.numpy(), x.dtype)


def _noise(x: Array, random: np.random.Generator) -> Array:
    """Normal noise of a twentieth of the spread; arrays of whole numbers stay as they are."""
    if x.dtype.kind != "f":
        return x
    spread = float(np.std(x)) * _NOISE
    return np.asarray(x + random.normal(0, spread or _NOISE, x.shape), x.dtype)


def _mixup(feed: Feed, random: np.random.Generator) -> dict[str, Any]:
    """For half of the samples a mean with another one, with weights at random."""
    floats = [name for name, value in feed.items() if np.asarray(value).dtype.kind == "f"]
    sizes = {len(feed[name]) for name in floats if np.ndim(feed[name])}
    if len(floats) != len(feed) or len(sizes) != 1:
        return dict(feed)
    count = sizes.pop()
    # Never with itself.
    partner = (np.arange(count) + random.integers(1, max(count, 2))) % count
    share = np.where(random.random(count) < 0.5, random.uniform(0, 0.5, count), 0.0)
    mixed = {}
    for name, value in feed.items():
        weight = share.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)
        mixed[name] = value * (1 - weight) + value[partner] * weight
    return mixed


def _cut(feed: Feed, pictures: Mapping[str, int], random: np.random.Generator) -> dict[str, Any]:
    """For half of the samples a rectangle from another one in its place, of up to half the area.

    Yun et al., CutMix, arXiv 1905.04899.
    """
    if set(pictures) != set(feed) or len(feed) != 1:
        return dict(feed)
    ((name, value),) = feed.items()
    x = np.array(np.moveaxis(value, pictures[name], 1))
    count, (height, width) = len(x), x.shape[2:]
    partner = (np.arange(count) + random.integers(1, max(count, 2))) % count
    filled = x.copy()
    for place in np.flatnonzero(random.random(count) < 0.5):
        side = math.sqrt(random.uniform(0, 0.5))
        tall, wide = max(1, round(height * side)), max(1, round(width * side))
        top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
        area = np.s_[:, top : top + tall, left : left + wide]
        filled[place][area] = x[partner[place]][area]
    return {name: np.moveaxis(filled, 1, pictures[name])}


def _colour(x: Array, random: np.random.Generator) -> Array:
    """Each picture a little brighter or darker, with more or less contrast, channel by channel."""
    means = x.mean((2, 3), keepdims=True)
    contrast = np.exp(random.uniform(-_CONTRAST, _CONTRAST, (len(x), 1, 1, 1)))
    moves = random.uniform(-_BRIGHTNESS, _BRIGHTNESS, (len(x), x.shape[1], 1, 1)) * x.std()
    return np.asarray((x - means) * contrast + means + moves, x.dtype)


NAMES: Mapping[str, Picture] = {
    "flip": _flip,
    "crop": _crop,
    "colour": _colour,
    "shift": _shift,
    "noise": _noise,
    "mixup": lambda x, random: x,
    "cut": lambda x, random: x,
}
"""Variations by name."""
