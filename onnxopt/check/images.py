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

# Of a random part: the least share of the picture's area, the logarithm of its distortion.
_LEAST_AREA = 0.25
_ASPECT = 0.25


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
        return self._numbers(image)

    def part(
        self, image: Any, size: tuple[int | None, int | None], grey: bool, random: Any
    ) -> Array:
        """As `picture`, of a part of the image at random places: a quarter of its area or more.

        `random` is a numpy generator. Pictures of no fixed size come whole.
        """
        height, width = self.crop or size
        if height is None or width is None:
            return self.picture(image, size, grey)
        image = image.convert("L" if grey else "RGB")
        area = image.width * image.height * random.uniform(_LEAST_AREA, 1.0)
        aspect = width / height * math.exp(random.uniform(-_ASPECT, _ASPECT))
        across = min(math.sqrt(area * aspect), image.width)
        down = min(math.sqrt(area / aspect), image.height)
        left = random.uniform(0, image.width - across)
        top = random.uniform(0, image.height - down)
        box = (left, top, left + across, top + down)
        return self._numbers(image.resize((width, height), box=box))

    def _numbers(self, image: Any) -> Array:
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

    def where(self, has: Callable[[int], bool]) -> Images:
        """The same, with those feeds alone for whose number, counted from 1, `has` says so."""
        kept = (f for place, f in enumerate(self.files) if has(place // self.batch + 1))
        return replace(self, files=tuple(kept))

    def photos(self) -> list[dict[str, Photo]]:
        """A feed for each picture, which is decoded whenever it is asked for."""
        spec, _ = image_input(self.inputs)
        single = replace(self, batch=1)
        return [{spec.name: Photo(single, number)} for number in range(len(self.files))]

    def part(self, number: int, random: Any) -> Array:
        """A part of a picture at random, as an input with its batch dim; see Preprocess.part."""
        spec, channels_first = image_input(self.inputs)
        found = self._picture(self.files[number], spec, channels_first, random)
        return np.asarray(found[None], spec.numpy_dtype)

    def whole(self, number: int) -> Array:
        """One picture as an input with its batch dim."""
        (feed,) = replace(self, files=self.files[number : number + 1])
        (found,) = feed.values()
        return np.asarray(found)

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

    def _picture(
        self, file: Path, spec: InputSpec, channels_first: bool, random: Any = None
    ) -> Array:
        from PIL import Image

        shape = spec.shape or ()
        channels, *size = (shape[i] for i in ((1, 2, 3) if channels_first else (3, 1, 2)))
        height, width = (dim if isinstance(dim, int) else None for dim in size)
        try:
            with Image.open(file) as image:
                if not isinstance(self.how, Preprocess):
                    return np.asarray(self.how(np.asarray(image.convert("RGB"))))
                sizes, grey = (height, width), channels == 1
                found = (
                    self.how.picture(image, sizes, grey)
                    if random is None
                    else self.how.part(image, sizes, grey, random)
                )
        except OSError as error:
            raise BadInput(f"{file} can't be read as a picture: {error}") from error
        return found if channels_first else found.transpose(1, 2, 0)


@dataclass(frozen=True, slots=True)
class Photo:
    """One of the pictures of a folder, as an array that is read when it is asked for."""

    images: Images
    number: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.images.whole(self.number)
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        return 1

    def part(self, random: Any) -> Array:
        """A part of it at random; see Images.part."""
        return self.images.part(self.number, random)


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
