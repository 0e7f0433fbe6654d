"""Frozen option records that every layer may read."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Exactness(enum.IntEnum):
    """How far a rewrite may move the numbers; a run is judged by the weakest class that fired."""

    EXACT = 0
    """The same bits for every input, NaN, infinities and signed zero included."""
    CLOSE = 1
    """The same function on real numbers; rounding may differ."""
    LOSSY = 2
    """A different function on purpose; needs the user's word and a budget."""


class Level(str, enum.Enum):
    """How much the optimizer may do."""

    CLEAN = "clean"
    EXACT = "exact"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Elementwise bound: |candidate - reference| <= absolute + relative * scale.

    `scale` is the largest finite magnitude of the reference tensor, so that a bound means the same
    for large and small tensors.
    """

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked `optimize` for.

    `input_shapes` maps an input's name to its new shape, `dims` a symbolic dim to its new size;
    `max_growth` is the share of the file's size that folding may add; `enable` names rules that are
    off unless asked for.
    """

    level: Level = Level.CLOSE
    freeze_inputs: bool = False
    max_growth: float = 0.03
    opset: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    seed: int = 0
