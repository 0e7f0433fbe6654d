"""Plausible values for one input, told from its type, its name and its readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.check.hints import Hint
from onnxopt.check.inputs import InputSpec

Array: TypeAlias = "np.ndarray[Any, Any]"

_WORDS = ("a", "the", "model", "Zürich", "42", "", "two words", "unknown")
_STATE = re.compile(r"(state|hidden|cell|cache|memory|past|^h_?\d*$|^c_?\d*$)", re.IGNORECASE)
_IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a value is made for.

    `turn` counts the feeds from 0, so that each feed shows the model something else; `longest` is
    the largest length in the feed, which lengths must not exceed.
    """

    random: np.random.Generator
    turn: int
    longest: int


def make(spec: InputSpec, shape: tuple[int, ...], hint: Hint, setting: Setting) -> Any:
    """A value for the input: an array, a list of arrays for a sequence, None for every other
    optional."""
    if "optional" in spec.kind and setting.turn % 2:
        return None
    if "sequence" in spec.kind:
        return [_array(spec, shape, hint, setting) for _ in range(3)]
    return _array(spec, shape, hint, setting)


def _array(spec: InputSpec, shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    assert spec.dtype is not None
    if spec.dtype is ir.DataType.STRING:
        return _words(shape, hint, setting)
    for applies, values in _KINDS:
        if applies(spec, shape, hint):
            return _cast(values(shape, hint, setting), spec)
    if spec.dtype is ir.DataType.BOOL:
        return _booleans(shape, setting)
    if spec.dtype.is_floating_point() or spec.numpy_dtype.kind == "c":
        return _cast(_numbers(shape, setting), spec)
    return _cast(_integers(spec, shape, setting), spec)


def _is_constant_like(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return bool(hint.constants) and not isinstance(hint.constants[0], str) and len(shape) <= 1


def _is_shape(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return hint.shape and _is_integer(spec)


def _is_count(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return hint.count and _is_integer(spec)


def _is_mask(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return "mask" in spec.name.lower()


def _is_position(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return _is_integer(spec) and "position" in spec.name.lower() and len(shape) > 0


def _is_segment(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return _is_integer(spec) and bool(re.search(r"token_?type|segment", spec.name, re.IGNORECASE))


def _is_length(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    named = re.search(r"(^|_)lens?(gths?)?($|_)|length", spec.name, re.IGNORECASE)
    return _is_integer(spec) and len(shape) <= 1 and bool(named)


def _is_rate(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    named = re.search(r"^sr$|sampl(e|ing)_?rate", spec.name, re.IGNORECASE)
    return len(shape) <= 1 and bool(named)


def _is_index(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return hint.limit is not None


def _is_token(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return _is_integer(spec) and bool(re.search(r"(^|_)ids?($|_)|token", spec.name, re.IGNORECASE))


def _is_state(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    return not _is_integer(spec) and bool(_STATE.search(spec.name)) and len(shape) > 1


def _is_image(spec: InputSpec, shape: Sequence[int], hint: Hint) -> bool:
    if len(shape) not in (4, 5) or spec.dtype is None:
        return False
    if not (spec.dtype.is_floating_point() or spec.dtype is ir.DataType.UINT8):
        return False
    return shape[1] in _IMAGE_CHANNELS or shape[-1] in _IMAGE_CHANNELS


def _is_integer(spec: InputSpec) -> bool:
    return spec.dtype is not None and spec.dtype.is_integer()


def _constant_values(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    # A value beside the known ones takes the other branch of the comparison.
    first = int(hint.constants[0])
    other = 1 - first if first in (0, 1) else first // 2
    choices = [*hint.constants, other]
    return np.full(shape, choices[setting.turn % len(choices)])


def _shape_values(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    values = np.ones(shape)
    if values.size:
        values.reshape(-1)[-1] = -1
    return values


def _counts(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return np.full(shape, (4, 1, 2)[setting.turn % 3])


def _mask(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    """Ones, then zeros to the end of the last axis, from a place that differs by row."""
    if not shape or not setting.turn:
        return np.ones(shape)
    kept = setting.random.integers(1, max(shape[-1], 1) + 1, (*shape[:-1], 1))
    return np.asarray(np.arange(shape[-1]) < kept)


def _positions(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return np.broadcast_to(np.arange(shape[-1]) % (hint.limit or shape[-1] or 1), shape)


def _segments(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return setting.random.integers(0, min(2, hint.limit or 2), shape)


def _lengths(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    """Descending, as packed sequences want them, from the full length."""
    values = setting.random.integers(1, setting.longest + 1, shape)
    if not shape:
        return np.asarray(setting.longest)
    ordered = -np.sort(-values)
    ordered[:1] = setting.longest
    return ordered


def _rates(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return np.full(shape, (16000, 8000)[setting.turn % 2])


def _indexes(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return setting.random.integers(0, max(hint.limit or 1, 1), shape)


def _tokens(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return setting.random.integers(1, 100, shape)


def _state_values(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    return setting.random.standard_normal(shape) * (0.0 if not setting.turn else 0.1)


def _image(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    """Waves with sharp-edged patches, in the ranges images come in: 0 to 1, -2 to 2, 0 to 255;
    white noise between."""
    kind = setting.turn % 4
    if kind == 2:
        return setting.random.standard_normal(shape)
    picture = _picture(shape, setting)
    return (picture, picture * 4 - 2, picture, np.floor(picture * 255))[kind]


def _picture(shape: tuple[int, ...], setting: Setting) -> Array:
    phase = setting.random.uniform(0, 2 * np.pi, shape[:2] + (1,) * (len(shape) - 2))
    value = np.zeros(shape)
    for axis, size in enumerate(shape[1:], 1):
        wave = np.arange(size) * (setting.random.uniform(2, 6) / max(size, 1))
        value = value + wave.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    noise = setting.random.uniform(-0.1, 0.1, shape)
    picture = np.clip(0.5 + 0.4 * np.sin(2 * value + phase) + noise, 0.0, 1.0)
    for _ in range(4):
        corner = [int(setting.random.integers(0, size + 1)) for size in shape[1:]]
        patch = tuple(
            slice(at, at + max(s // 3, 1)) for at, s in zip(corner, shape[1:], strict=True)
        )
        region = (slice(None), *patch)
        picture[region] = setting.random.integers(0, 2)
    return picture


_KINDS: tuple[
    tuple[
        Callable[[InputSpec, Sequence[int], Hint], bool],
        Callable[[tuple[int, ...], Hint, Setting], Array],
    ],
    ...,
] = (
    (_is_constant_like, _constant_values),
    (_is_shape, _shape_values),
    (_is_count, _counts),
    (_is_mask, _mask),
    (_is_position, _positions),
    (_is_segment, _segments),
    (_is_length, _lengths),
    (_is_rate, _rates),
    (_is_index, _indexes),
    (_is_token, _tokens),
    (_is_state, _state_values),
    (_is_image, _image),
)


def _words(shape: tuple[int, ...], hint: Hint, setting: Setting) -> Array:
    known = [word for word in hint.constants if isinstance(word, str)]
    return np.asarray(setting.random.choice(np.array([*known, *_WORDS], object), shape), object)


def _booleans(shape: tuple[int, ...], setting: Setting) -> Array:
    if not shape:
        return np.asarray(setting.turn % 2 == 0)
    values = setting.random.integers(0, 2, shape).astype(bool)
    values.reshape(-1)[:1] = True
    return values


def _numbers(shape: tuple[int, ...], setting: Setting) -> Array:
    """Normal numbers; every other feed holds zeros of both signs and a few large ones too."""
    values = np.asarray(setting.random.standard_normal(shape))
    if setting.turn % 2 and values.size > 8:
        kind = setting.random.random(shape)
        values = np.where(kind < 0.05, 0.0, values)
        values = np.where((kind > 0.05) & (kind < 0.1), -0.0, values)
        values = np.where(kind > 0.98, values * 10, values)
    return values


def _integers(spec: InputSpec, shape: tuple[int, ...], setting: Setting) -> Array:
    assert spec.dtype is not None
    low, high = int(spec.dtype.min), int(spec.dtype.max) + 1
    if spec.dtype.bitwidth > 8:
        low, high = 0, 10
    return setting.random.integers(low, high, shape)


def _cast(values: Array, spec: InputSpec) -> Array:
    values = np.asarray(values)
    if spec.dtype is ir.DataType.UINT8 and values.dtype.kind == "f":
        values = np.clip(values * 255 if values.size and values.max() <= 1 else values, 0, 255)
    if _is_integer(spec) and values.dtype.kind == "f":
        values = np.round(values)
    return np.asarray(values.astype(spec.numpy_dtype))
