"""Feeds from a folder of pictures, made into the numbers that a network was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed, InputSpec, checked_feed, listing
from onnxopt.errors import BadInput, MissingExtra

Array = np.ndarray[Any, np.dtype[Any]]
Function: TypeAlias = "Callable[[Array], Array]"
"""From the uint8 pixels [height, width, 3] (red, green, blue) to an input without its batch dim."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
HINT = (
    "one of imagenet, unit (0 to 1), symmetric (-1 to 1) or raw (0 to 255), then options such as"
    " `imagenet,resize=256,crop=224` or `raw,mean=104/117/123,std=1,bgr`; or module:function"
)

# Networks are usually tested on the middle 7/8 of a picture.
_MARGIN = 8 / 7


@dataclass(frozen=True, slots=True)
class Preprocess:
    """(pixels * scale - mean) / std, after a resize of the short side and a crop of the middle.

    `crop` is (height, width); sizes that are None are the model's own, or else the picture's.
    `mean` and `std` have one number, or one for each channel in the order the model takes.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: int | None = None
    crop: tuple[int, int] | None = None
    bgr: bool = False

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read what stands behind --preprocess, but for module:function. Raises BadInput."""
        name, _, options = text.partition(",")
        if name not in PRESETS:
            raise BadInput(f"there is no preprocessing {name!r}", hint=f"write {HINT}")
        found = PRESETS[name]
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            try:
                found = replace(found, **_option(key, value))
            except (KeyError, ValueError):
                raise BadInput(
                    f"the preprocessing {text!r} has a part {option!r}", hint=f"write {HINT}"
                ) from None
        return found

    def picture(self, image: Any, size: tuple[int | None, int | None], grey: bool) -> Array:
        """A Pillow image as float32 [channels, height, width], cut to `size` where that is set."""
        image = image.convert("L" if grey else "RGB")
        height, width = self.crop or size
        if height is not None and width is not None:
            short = self.resize or math.ceil(max(height, width) * _MARGIN)
            factor = max(short / min(image.size), width / image.width, height / image.height)
            image = image.resize((round(image.width * factor), round(image.height * factor)))
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        elif self.resize is not None:
            factor = self.resize / min(image.size)
            image = image.resize((round(image.width * factor), round(image.height * factor)))
        pixels = np.atleast_3d(np.asarray(image, np.float32)).transpose(2, 0, 1)
        pixels = pixels[::-1] if self.bgr else pixels
        mean, std = (np.array(each, np.float32)[:, None, None] for each in (self.mean, self.std))
        return np.asarray((pixels * np.float32(self.scale) - mean) / std, np.float32)


PRESETS = {
    "imagenet": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "unit": Preprocess(),
    "symmetric": Preprocess(mean=(0.5,), std=(0.5,)),
    "raw": Preprocess(scale=1.0),
}
"""By name. ImageNet's numbers are those of torchvision's reference training."""


@dataclass(frozen=True, slots=True)
class Images(Iterable[Feed]):
    """Feeds of `batch` pictures each, decoded as they are asked for."""

    files: tuple[Path, ...]
    inputs: tuple[InputSpec, ...]
    how: Preprocess | Function
    batch: int

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch)

    def __iter__(self) -> Iterator[Feed]:
        spec, channels_first = image_input(self.inputs)
        for start in range(0, len(self.files), self.batch):
            files = self.files[start : start + self.batch]
            pictures = [self._picture(file, spec, channels_first) for file in files]
            where = str(files[0]) if len(files) == 1 else f"{files[0]} to {files[-1].name}"
            if len({picture.shape for picture in pictures}) > 1:
                raise BadInput(
                    f"{where}: the pictures have different sizes",
                    hint="use a batch of 1, or name a size: --preprocess unit,resize=256,crop=224",
                )
            stacked = np.stack(pictures)
            if isinstance(self.how, Preprocess):
                stacked = stacked.astype(spec.numpy_dtype)
            yield checked_feed({spec.name: stacked}, self.inputs, where)

    def _picture(self, file: Path, spec: InputSpec, channels_first: bool) -> Array:
        from PIL import Image

        shape = spec.shape or ()
        channels, *size = (shape[i] for i in ((1, 2, 3) if channels_first else (3, 1, 2)))
        height, width = (dim if isinstance(dim, int) else None for dim in size)
        try:
            with Image.open(file) as image:
                if not isinstance(self.how, Preprocess):
                    return np.asarray(self.how(np.asarray(image.convert("RGB"))))
                found = self.how.picture(image, (height, width), grey=channels == 1)
        except OSError as error:
            raise BadInput(f"{file} can't be read as a picture: {error}") from error
        return found if channels_first else found.transpose(1, 2, 0)


def images_in(folder: Path) -> tuple[Path, ...]:
    """The pictures that lie in a folder, by name."""
    return tuple(sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES))


def require_pillow() -> None:
    """Raises MissingExtra where pictures can't be decoded."""
    try:
        import PIL.Image  # noqa: F401 - only whether it is there
    except ImportError:
        raise MissingExtra(
            "pictures can't be read without Pillow", hint="pip install 'onnxopt[images]'"
        ) from None


def image_input(inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, bool]:
    """The input that takes pictures, and whether channels come before height and width.

    Raises:
        BadInput: The model has other inputs to feed, or this one has no dim of 1 or 3 channels.
    """
    required = [spec for spec in inputs if spec.required]
    spec = required[0] if len(required) == 1 else None
    if spec is not None and spec.kind == "tensor" and len(spec.shape or ()) == 4:
        shape = spec.shape or ()
        if spec.dtype is not ir.DataType.STRING and shape[1] in (1, 3):
            return spec, True
        if spec.dtype is not ir.DataType.STRING and shape[3] in (1, 3):
            return spec, False
        if isinstance(shape[1], str) or shape[1] is None:
            return spec, True
    raise BadInput(
        f"pictures don't fit the inputs of the model: {listing(inputs)}",
        hint="give feeds of your own with --data module:function",
    )


def _option(key: str, value: str) -> dict[str, Any]:
    if key == "bgr" and not value:
        return {"bgr": True}
    if key in ("mean", "std"):
        numbers = tuple(float(part) for part in value.split("/"))
        if len(numbers) not in (1, 3) or (key == "std" and 0 in numbers):
            raise ValueError(value)
        return {key: numbers}
    if key == "crop":
        height, _, width = value.partition("x")
        return {key: (_size(height), _size(width or height))}
    return {{"resize": "resize"}[key]: _size(value)}


def _size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise ValueError(text)
    return size
