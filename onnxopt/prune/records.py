"""What falls together when a channel is removed: records that the parts of pruning hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Positions: TypeAlias = "tuple[tuple[int, ...], ...]"
"""For each channel of a group the coordinates that it has on an axis, in ascending order."""

Removal: TypeAlias = "Mapping[str, tuple[int, ...]]"
"""Group name → the indices of the channels to take out, in ascending order."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A constant (the name of its value) that carries a group on one of its axes.

    `axis` is not negative; `positions[i]` are the coordinates of channel i on it.
    """

    value: str
    axis: int
    positions: Positions


@dataclass(frozen=True, slots=True)
class Carrier:
    """An activation that carries a group on one of its axes; the fields are those of a Slot."""

    value: str
    axis: int
    positions: Positions


@dataclass(frozen=True, slots=True)
class Writer:
    """A node whose output channels a group is: a Conv, Gemm, MatMul, an LSTM or a look-up.

    `weight` is the stored weight, the codes of a quantized one; `bias` is None where the node has
    none (for a MatMul it is what an Add right after it adds).
    """

    node: str
    output: Carrier
    weight: Slot
    bias: Slot | None


@dataclass(frozen=True, slots=True)
class Reader:
    """A node that sums over the channels of a group, each times its slice of a weight."""

    node: str
    input: Carrier
    weight: Slot


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can only be removed at all their places together.

    `kind` is "channels", "hidden" (of a matrix product), "heads", "head width", "groups" or
    "recurrent"; `frozen` is empty where channels may be removed, else the reason why not, for the
    user. `slots` are all constants to slice, those of writers and readers among them; `carriers`
    all activations. The number of channels left must be a multiple of `multiple`, and not 0.
    """

    name: str
    size: int
    kind: str
    frozen: str
    slots: tuple[Slot, ...]
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    carriers: tuple[Carrier, ...]
    multiple: int = 1
