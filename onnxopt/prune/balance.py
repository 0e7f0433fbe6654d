"""Channels of grouped convolutions whose groups lose equally many, each its own.

Where the groups of one convolution don't line up with those of the next, as behind a shuffle of a
number that they don't divide, channels are tied together so that every group loses as many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxopt.prune.axes import Tokens
from onnxopt.rewrite.flows import NOTHING, Cells, Layout

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Balance:
    """An axis made of `count` equal parts that have to lose equally many; else it is kept."""

    layout: Layout
    count: int
    reason: str


def balance(tokens: Tokens, asked: Iterable[Balance]) -> None:
    """Tie tokens together until every part of every axis loses equally many with each of them."""
    left = list(asked)
    for _ in range(_ROUNDS):
        changed = [_tie(tokens, each) for each in left]
        if not any(changed):
            return
    for each in left:
        tokens.freeze(each.layout, each.reason)


def _tie(tokens: Tokens, asked: Balance) -> bool:
    """Tie the tokens of one axis together; whether anything was to be done."""
    counts = _counts(tokens, asked)
    if counts is None:
        tokens.freeze(asked.layout, asked.reason)
        return False
    uneven = {token: row for token, row in counts.items() if row.min() != row.max()}
    kinds: dict[tuple[int, ...], list[int]] = {}
    for token, row in sorted(uneven.items()):
        kinds.setdefault(tuple((row - row.min()).tolist()), []).append(token)
    while kinds:
        chosen = _even(kinds, asked.count)
        if chosen is None:
            rest = [token for found in kinds.values() for token in found]
            tokens.freeze(Layout(np.array(rest)[:, None]), asked.reason)
            break
        for token in chosen[1:]:
            tokens.equal(*(Layout(np.array([[each]])) for each in (chosen[0], token)), asked.reason)
    return bool(uneven)


def _counts(tokens: Tokens, asked: Balance) -> dict[int, Cells] | None:
    """How many coordinates each free token has in each part; None where they have several."""
    cells = tokens.cells(asked.layout)
    stays = np.array([bool(tokens.reason(token)) for token in cells.flat]).reshape(cells.shape)
    free = np.where(stays, NOTHING, cells)
    if ((free != NOTHING).sum(axis=1) > 1).any():
        return None
    found: dict[int, Cells] = {}
    size = len(cells) // asked.count
    for at, token in enumerate(free.max(axis=1).tolist()):
        if token != NOTHING:
            row = found.setdefault(token, np.zeros(asked.count, np.int64))
            row[at // size] += 1
    return found


def _even(kinds: dict[tuple[int, ...], list[int]], count: int) -> list[int] | None:
    """Tokens that are even together, taken out of `kinds`; None where some can't be evened."""
    total = np.zeros(count, np.int64)
    chosen: list[int] = []
    while not chosen or total.min() != total.max():
        if not kinds:
            return None
        best = min(kinds, key=lambda kind: (np.ptp(total + kind), -len(kinds[kind]), kind))
        total = total + best
        chosen.append(kinds[best].pop(0))
        if not kinds[best]:
            del kinds[best]
    return chosen
