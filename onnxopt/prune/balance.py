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
            _uncross(tokens, left)
            return
    for each in left:
        tokens.freeze(each.layout, each.reason)


def _uncross(tokens: Tokens, asked: Iterable[Balance]) -> None:
    """Keep what is even by itself and may not be together with another that it crosses."""
    for each in asked:
        crossed, counts = _counts(tokens, each)
        for token in sorted(crossed, key=lambda token: (-int(counts[token].sum()), token)):
            if token in _counts(tokens, each)[0]:
                tokens.freeze(_layout(token), each.reason)


def _tie(tokens: Tokens, asked: Balance) -> bool:
    """Tie the tokens of one axis together; whether anything was to be done."""
    crossed, counts = _counts(tokens, asked)
    uneven = {token: row for token, row in counts.items() if row.min() != row.max()}
    kinds: dict[tuple[int, ...], list[int]] = {}
    for token, row in sorted(uneven.items()):
        if token in crossed:
            tokens.freeze(_layout(token), asked.reason)
        else:
            kinds.setdefault(tuple((row - row.min()).tolist()), []).append(token)
    while kinds:
        chosen = _even(kinds, asked.count)
        if chosen is None:
            tokens.freeze(_layout(*(t for found in kinds.values() for t in found)), asked.reason)
            break
        for token in chosen[1:]:
            tokens.equal(_layout(chosen[0]), _layout(token), asked.reason)
    return bool(uneven)


def _counts(tokens: Tokens, asked: Balance) -> tuple[set[int], dict[int, Cells]]:
    """Tokens that share coordinates with others, and how many each has in each part.

    Only those that may go count.
    """
    cells = tokens.cells(asked.layout)
    roots = np.unique(cells)
    stays = roots[[bool(tokens.reason(int(token))) for token in roots]]
    free = np.where(np.isin(cells, stays), NOTHING, cells)
    crossed = set(np.unique(free[(free != NOTHING).sum(axis=1) > 1]).tolist())
    found: dict[int, Cells] = {}
    size = len(cells) // asked.count
    for at, row in enumerate(free.tolist()):
        for token in set(row) - {NOTHING}:
            found.setdefault(token, np.zeros(asked.count, np.int64))[at // size] += 1
    return crossed, found


def _layout(*found: int) -> Layout:
    return Layout(np.array(found, np.int64)[:, None])


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
