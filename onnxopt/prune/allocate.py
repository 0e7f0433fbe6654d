"""How many channels each group gives: the least loss for each unit of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

UNIT, NARROW_UNIT, NARROW = 8, 4, 64
"""What channels are rounded to, and what they are in groups of fewer than so many: there a step of
8 is a large share of the group, and 4 is what kernels need at least."""


class Price(Protocol):
    """What a model costs when so many channels of each group are gone."""

    def __call__(self, removed: Mapping[str, int]) -> float: ...


@dataclass(frozen=True, slots=True)
class Menu:
    """How many channels a group may give, ascending from 0, and the loss that each costs."""

    group: str
    counts: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(slots=True)
class Allocation:
    """Channels to remove by group, the cost then, and the loss that is expected."""

    removed: dict[str, int] = field(default_factory=dict)
    cost: float = 0.0
    loss: float = 0.0


def allocate(menus: Sequence[Menu], price: Price, goal: float) -> Allocation:
    """Give channels away, always those of the least loss for each unit saved, down to `goal`.

    A group may give many at once where the first ones alone save little for what they lose. Where
    the goal is out of reach the result is as low as the menus go.
    """
    state = Allocation(cost=price({}))
    places = {menu.group: 0 for menu in menus}
    while state.cost > goal:
        best: tuple[float, float, Menu, int, float] | None = None
        for menu in menus:
            for place in range(places[menu.group] + 1, len(menu.counts)):
                trial = price({**state.removed, menu.group: menu.counts[place]})
                saved = state.cost - trial
                if saved <= 0:
                    continue
                lost = max(menu.losses[place] - menu.losses[places[menu.group]], 0.0)
                # What goes beyond the goal is worth nothing.
                rank = (lost / min(saved, state.cost - goal), lost, menu, place, trial)
                if best is None or rank[:2] < best[:2]:
                    best = rank
        if best is None:
            break
        _, lost, menu, place, cost = best
        places[menu.group] = place
        state.removed[menu.group] = menu.counts[place]
        state.cost, state.loss = cost, state.loss + lost
    return state


def counts_of(
    size: int, *, rounding: int | None, multiple: int, most: float, whole: int = 0
) -> tuple[int, ...]:
    """How many of `size` channels may go, ascending from 0.

    What is left is a multiple of `rounding` (where the group has more than that; None leaves it to
    the size of the group) and of `multiple`, and no less than the share `1 - most`; `whole` is how
    many the group had at first, if more.
    """
    whole = whole or size
    if rounding is None:
        rounding = UNIT if whole >= NARROW else NARROW_UNIT
    unit = int(np.lcm(rounding if whole > rounding else 1, multiple))
    least = max(unit, int(np.ceil(whole * (1 - most) - 1e-9)))
    left = [n for n in range(size - 1, 0, -1) if n % unit == 0 and n >= least]
    return (0, *(size - n for n in left))


def spread(
    counts: Sequence[int], measured: Mapping[int, float], curve: Sequence[float]
) -> tuple[float, ...]:
    """The loss at each count, from those measured at some, in between along a curve of losses.

    A loss never falls with the count: what is measured on few samples is noisy.
    """
    known = sorted({0: 0.0, **measured}.items())
    at = np.array([curve[count] for count, _ in known])
    values = np.maximum.accumulate([value for _, value in known])
    at = np.maximum.accumulate(at + np.arange(len(at)) * 1e-12)
    return tuple(np.interp([curve[count] for count in counts], at, values).tolist())
