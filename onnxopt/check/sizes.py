"""Sizes to try for a model's dynamic dims."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxopt.check.hints import Hint
from onnxopt.check.inputs import Dim, InputSpec
from onnxopt.errors import BadInput

Role: TypeAlias = Literal["batch", "space", "volume", "length", "fixed"]
Sizes: TypeAlias = Mapping[str, int]
"""A size for each symbol."""

BATCH = "<batch>"
_START: Mapping[str, int] = {"batch": 1, "space": 128, "volume": 32, "length": 32}
# Tried in turn where the first guess does not run: common image, frame and window sizes.
_RESCUE = (64, 256, 16, 512, 48, 224, 8, 4, 2, 1, 3, 10, 100, 320, 80, 640, 1024, 400, 1600, 16000)
_BATCHES = (2, 4, 3, 8, 16, 32)
_RANDOM_TRIES = 40
_WRITTEN = 16
_WRITTEN_TOGETHER = 6
_WRITTEN_TRIES = 216
_TERM = re.compile(r"\s*([+*-]?)\s*([^\s+*-]+)\s*")
_STATE = re.compile(r"(state|hidden|cell|cache|memory|past|^h_?\d*$|^c_?\d*$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of each input in symbols, and what is known of the symbols.

    `shapes` has a size or a symbol for each dim, `known` the symbols whose size is given, `roles`
    what each free symbol stands for.
    """

    shapes: Mapping[str, tuple[int | str, ...]]
    known: Mapping[str, int]
    roles: Mapping[str, Role]

    def shape(self, name: str, sizes: Sizes) -> tuple[int, ...]:
        """The shape of an input under sizes for all free symbols."""
        return tuple(_value(dim, {**self.known, **sizes}) for dim in self.shapes[name])

    @property
    def first(self) -> dict[str, int]:
        """The likeliest sizes."""
        return {symbol: _START[role] for symbol, role in self.roles.items()}

    def rescues(self, seed: int, written: Sequence[int] = ()) -> Iterator[dict[str, int]]:
        """Further guesses, likely ones first, for when the first does not run.

        `written` are sizes that the graph speaks of.
        """
        free = [symbol for symbol, role in self.roles.items() if role != "batch"]
        if free:
            for size in dict.fromkeys((*_RESCUE, *written[:_WRITTEN])):
                yield self.first | dict.fromkeys(free, size)
        if len(free) > 1:
            random = np.random.default_rng(seed)
            for _ in range(_RANDOM_TRIES):
                yield self.first | {symbol: int(random.choice(_RESCUE)) for symbol in free}
        if self.roles:
            few = written[:_WRITTEN_TOGETHER]
            together = itertools.product(few, repeat=len(self.roles))
            for chosen in itertools.islice(together, _WRITTEN_TRIES):
                yield dict(zip(self.roles, chosen, strict=True))
        for size in _BATCHES if self.roles else ():
            yield dict.fromkeys(self.roles, size)

    def variations(self, base: Sizes) -> Iterator[dict[str, int]]:
        """Other sizes around ones that run: more samples, larger, not square, odd, one."""
        batch = [symbol for symbol, role in self.roles.items() if role == "batch"]
        free = [symbol for symbol in self.roles if symbol not in batch]
        if not free:
            yield {**base, **dict.fromkeys(batch, 3)}
            yield {**base, **dict.fromkeys(batch, 2)}
            return
        factors = itertools.cycle((3, 4))
        larger = {symbol: max(base[symbol] * next(factors) // 2, 2) for symbol in free}
        yield {**base, **larger, **dict.fromkeys(batch, 3)}
        if len(free) > 1:
            yield {**base, free[-1]: larger[free[-1]]}
        yield {**base, **{symbol: base[symbol] // 2 * 2 + 1 for symbol in free}}
        yield {**base, **dict.fromkeys(free, 1)}
        if batch:
            yield {**base, **dict.fromkeys(batch, 2)}


def plan(
    inputs: Sequence[InputSpec],
    hints: Mapping[str, Hint],
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int, ...]],
) -> Plan:
    """What sizes there are to choose, with those the user and the graph have chosen filled in.

    Raises:
        BadInput: A name in `dims` or `input_shapes` is unknown, a size is not positive, or two of
            them, or one and the model, contradict each other.
    """
    _check_names(inputs, dims, input_shapes)
    declared = _with_totals(
        {spec.name: _declared(spec, hints.get(spec.name, Hint())) for spec in inputs}
    )
    known = dict(dims)
    for spec in inputs:
        if spec.name in input_shapes:
            shape = input_shapes[spec.name]
            _bind(spec, declared[spec.name], shape, known)
            if spec.shape is None:
                declared[spec.name] = tuple(shape)
    roles: dict[str, Role] = {}
    shapes: dict[str, tuple[int | str, ...]] = {}
    for spec in inputs:
        shapes[spec.name] = tuple(_filled(dim, known) for dim in declared[spec.name])
        for axis, dim in enumerate(declared[spec.name]):
            if isinstance(dim, str) and dim not in known and not _is_expression(dim):
                role = _role(spec, dim, axis, declared[spec.name])
                roles[dim] = "batch" if "batch" in (role, roles.get(dim)) else role
    for dim in itertools.chain.from_iterable(shapes.values()):
        for symbol in _symbols(dim):
            if symbol not in known:
                roles.setdefault(symbol, "length")
    return Plan(shapes, known, roles)


def _check_names(
    inputs: Sequence[InputSpec],
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int, ...]],
) -> None:
    symbols = {dim for spec in inputs for dim in spec.shape or () if isinstance(dim, str)}
    symbols |= {part for symbol in symbols for part in _symbols(symbol)}
    for name, size in dims.items():
        if name not in symbols:
            raise BadInput(
                f"no input has a dim called {name!r}",
                hint=f"the symbolic dims: {', '.join(sorted(symbols)) or 'none'}",
            )
        if size < 1:
            raise BadInput(f"the dim {name!r} can't be {size}", hint="give a positive size")
    names = [spec.name for spec in inputs]
    for name in input_shapes:
        if name not in names:
            raise BadInput(f"the model has no input {name!r}", hint=f"its inputs: {names}")


def _declared(spec: InputSpec, hint: Hint) -> tuple[int | str, ...]:
    shape: tuple[Dim, ...]
    if spec.shape is None:
        shape = (None,) * (hint.rank if hint.rank is not None else 2)
    else:
        shape = spec.shape
    rank = len(shape)
    needed = {axis % rank: size for axis, size in hint.axes.items() if -rank <= axis < rank}
    return tuple(
        _named(spec, axis, needed.get(axis, dim) if not isinstance(dim, int) else dim, shape)
        for axis, dim in enumerate(shape)
    )


def _with_totals(
    declared: Mapping[str, tuple[int | str, ...]],
) -> dict[str, tuple[int | str, ...]]:
    """The shapes with `total_x` written as the sum of `past_x` and `x` where both exist."""
    symbols = {dim for shape in declared.values() for dim in shape if isinstance(dim, str)}
    sums: dict[int | str, int | str] = {}
    for symbol in symbols:
        past, now = symbol.replace("total", "past"), symbol.replace("total_", "")
        if len({symbol, past, now} & symbols) == 3:
            sums[symbol] = f"{past} + {now}"
    return {name: tuple(sums.get(dim, dim) for dim in shape) for name, shape in declared.items()}


def _named(spec: InputSpec, axis: int, dim: Dim, shape: Sequence[Dim]) -> int | str:
    if dim is not None:
        return dim
    # Recurrent states carry the batch behind the layer axis.
    second = axis == 1 and len(shape) == 3 and isinstance(shape[0], int)
    if axis == 0 or (second and _STATE.search(spec.name)):
        return BATCH
    return f"{spec.name}:{axis}"


def _bind(
    spec: InputSpec, declared: Sequence[int | str], shape: Sequence[int], known: dict[str, int]
) -> None:
    hint = f"the input is {spec.expected}"
    if spec.shape is not None and len(shape) != len(declared):
        raise BadInput(f"the shape {list(shape)} for {spec.name!r} has the wrong rank", hint=hint)
    if spec.shape is None:
        return
    for dim, size in zip(declared, shape, strict=True):
        if size < 1:
            raise BadInput(f"the shape {list(shape)} for {spec.name!r} is not positive", hint=hint)
        if isinstance(dim, str) and dim != BATCH and known.setdefault(dim, size) != size:
            raise BadInput(
                f"the dim {dim!r} is to be {known[dim]} and, by the shape of {spec.name!r}, {size}",
                hint="give each dim one size",
            )
        if isinstance(dim, str):
            known.setdefault(dim, size)
        elif dim != size and dim in spec.shape:
            raise BadInput(f"the shape {list(shape)} for {spec.name!r} does not fit", hint=hint)


def _role(spec: InputSpec, symbol: str, axis: int, shape: Sequence[int | str]) -> Role:
    lower = symbol.lower()
    if symbol == BATCH or "batch" in lower or lower in ("n", "b", "bs"):
        return "batch"
    rank = len(shape)
    spatial = rank in (4, 5) and spec.dtype is not None and spec.dtype.is_floating_point()
    if axis == 0 and rank > 1:
        return "batch"
    if (spatial and axis > 0) or re.search(r"height|width|^[hw]$", lower):
        return "volume" if rank == 5 else "space"
    return "length"


def _filled(dim: int | str, known: Mapping[str, int]) -> int | str:
    return known.get(dim, dim) if isinstance(dim, str) else dim


def _is_expression(symbol: str) -> bool:
    return len(_symbols(symbol)) != 1 or _symbols(symbol) != [symbol]


def _symbols(dim: int | str) -> list[str]:
    """The names in a dim; exporters write sums such as `past_length + length`."""
    if isinstance(dim, int):
        return []
    if not re.fullmatch(r"[\w.]+(\s*[+*]\s*[\w.]+|\s+-\s+[\w.]+)+", dim):
        return [dim]
    return [term for _, term in _TERM.findall(dim) if not term.isdigit()]


def _value(dim: int | str, sizes: Sizes) -> int:
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    total, product, sign = 0, 1, 1
    for operator, term in _TERM.findall(dim):
        value = int(term) if term.isdigit() else sizes.get(term, 1)
        if operator == "*":
            product *= value
            continue
        total += sign * product if operator else 0
        sign, product = (-1 if operator == "-" else 1), value
    return max(total + sign * product, 0)
