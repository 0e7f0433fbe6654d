"""Which coordinates of which axes stand and fall together: layouts of tokens, and a union-find.

A token stands for one removable channel. A coordinate of an axis holds a set of tokens and goes
when one of them goes: a plain channel axis has one token per coordinate, an axis that merges heads
and their width has two. Sets are rows of an integer array, padded with 0, the token of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxopt.rewrite.flows import NOTHING, Cells, Layout, fixed, padded


class Tokens:
    """All tokens of a model: which are one, which are a product of others, which stay and why.

    `misfits` counts the splits that could not be made out of what was there.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._count = 1
        self._products: dict[int, tuple[int, ...]] = {}
        self._frozen: dict[int, str] = {}
        self._stays = np.zeros(1024, bool)
        self._labels: dict[int, str] = {}
        self._version = 0
        self.misfits = 0
        self._resolved: dict[int, tuple[int, Layout, Cells]] = {}

    def fresh(self, size: int) -> Layout:
        """A layout of `size` new channels."""
        first, self._count = self._count, self._count + size
        while self._count > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
            self._stays = np.concatenate([self._stays, np.zeros_like(self._stays)])
        new = np.arange(first, self._count)
        self._parent[new] = new
        return Layout(new[:, None])

    def cells(self, layout: Layout) -> Cells:
        """The sets of a layout of known size as sorted rows of roots, padded in front."""
        assert layout.cells is not None
        kept = self._resolved.get(id(layout))
        if kept is None or kept[0] != self._version:
            kept = (self._version, layout, self._roots(layout.cells))
            self._resolved[id(layout)] = kept
        return kept[2]

    def reason(self, token: int) -> str:
        """Why a root stays, empty if it may go."""
        return self._frozen.get(token, "")

    def kind(self, token: int) -> str:
        """What a root has been labelled, empty if nothing."""
        return self._labels.get(token, "")

    def freeze(self, layout: Layout, reason: str) -> None:
        """Keep all channels of a layout."""
        if layout.cells is not None:
            self._freeze(np.unique(self.cells(layout)).tolist(), reason)

    def label(self, layout: Layout, kind: str) -> None:
        """Say what the channels of a layout are; the first word stands."""
        if layout.cells is not None:
            for token in np.unique(self.cells(layout)).tolist():
                self._labels.setdefault(token, kind)

    def same(self, one: Layout, other: Layout) -> bool:
        """Whether two axes already keep and lose the same coordinates."""
        if one.size is None or one.size != other.size:
            return one is other
        cells = (self.cells(layout) for layout in (one, other))
        first, second = _aligned(*(sets(np.where(self._stays[c], NOTHING, c)) for c in cells))
        return bool((first == second).all())

    def equal(self, one: Layout, other: Layout, reason: str) -> None:
        """Let two axes keep and lose the same coordinates; what can't be is kept for `reason`."""
        if one is other or one.cells is other.cells:
            return
        if one.cells is None or other.cells is None or len(one.cells) != len(other.cells):
            for layout in (one, other):
                self.freeze(layout, reason)
            return
        while True:
            left, right = self._difference(one, other)
            if not len(left):
                return
            lone = (left[:, -1] == NOTHING) | (right[:, -1] == NOTHING)
            if lone.any():
                why = one.reason or other.reason or self._some_reason(one, other) or reason
                self._freeze(np.unique([*left[lone].flat, *right[lone].flat]).tolist(), why)
            elif not any(step(left, right) for step in self._steps):
                self._freeze(np.unique([*left.flat, *right.flat]).tolist(), reason)

    @property
    def _steps(self) -> tuple[Callable[[Cells, Cells], bool], ...]:
        return self._join_singles, self._expand_singles, self._join_twins

    def _some_reason(self, *layouts: Layout) -> str:
        tokens = (token for layout in layouts for token in np.unique(self.cells(layout)).tolist())
        return next((self._frozen[token] for token in tokens if token in self._frozen), "")

    def merge(self, layouts: Sequence[Layout]) -> Layout:
        """The layout of axes merged to one, the last one fastest."""
        layouts = [layout for layout in layouts if layout.size != 1] or list(layouts[:1])
        if len(layouts) == 1:
            return layouts[0]
        if any(layout.cells is None for layout in layouts):
            for layout in layouts:
                self.freeze(layout, "they are merged with an axis of open size; --dim fixes one")
            return Layout(None)
        merged = np.zeros((1, 1), np.int64)
        for layout in layouts:
            part = self.cells(layout)
            left = np.repeat(merged, len(part), axis=0)
            merged = np.concatenate([left, np.tile(part, (len(merged), 1))], axis=1)
        reason = next((layout.reason for layout in layouts if layout.reason), "")
        return Layout(sets(merged), reason)

    def split(self, layout: Layout, sizes: Sequence[int], reason: str) -> list[Layout]:
        """The layouts of an axis split into several, the last one fastest."""
        if len(sizes) == 1:
            return [layout]
        if layout.cells is None or len(layout.cells) != int(np.prod(sizes)):
            self.freeze(layout, reason)
            return [fixed(size, reason) for size in sizes]
        rows, columns = self._split(layout, sizes[0], int(np.prod(sizes[1:])), reason)
        return [rows, *self.split(columns, sizes[1:], reason)]

    def _split(self, layout: Layout, rows: int, columns: int, reason: str) -> tuple[Layout, Layout]:
        if rows == 1:
            return fixed(1, ""), layout
        if columns == 1:
            return layout, fixed(1, "")
        places = self._places(layout, columns)
        sides: tuple[list[Cells], list[Cells]] = ([], [])
        mixed: dict[tuple[int, int], list[tuple[int, Cells, Cells]]] = {}
        for token, (i, j) in places.items():
            down, across = np.unique(i), np.unique(j)
            if len(i) != len(down) * len(across):
                self.misfits += 1
                self._freeze([token], reason)
            elif len(across) == columns:
                sides[0].append(_column(rows, down, token))
            elif len(down) == rows:
                sides[1].append(_column(columns, across, token))
            else:
                mixed.setdefault((len(down), len(across)), []).append((token, down, across))
        for family in mixed.values():
            for side, part in zip(sides, self._factor(family, rows, columns, reason), strict=True):
                side.extend(part)
        made = [_gathered(side, size) for side, size in zip(sides, (rows, columns), strict=True)]
        return Layout(made[0], layout.reason or reason), Layout(made[1], layout.reason or reason)

    def _places(self, layout: Layout, columns: int) -> dict[int, tuple[Cells, Cells]]:
        """Where each token is, once an axis is seen as a matrix."""
        cells = self.cells(layout)
        order = np.argsort(cells, axis=None, kind="stable")
        tokens, starts = np.unique(cells.reshape(-1)[order], return_index=True)
        flat = np.split(order // cells.shape[1], starts[1:])
        return {
            int(token): (at // columns, at % columns)
            for token, at in zip(tokens, flat, strict=True)
            if token != NOTHING
        }

    def _factor(
        self, family: list[tuple[int, Cells, Cells]], rows: int, columns: int, reason: str
    ) -> tuple[list[Cells], list[Cells]]:
        """Make each token of a matrix the product of one for its row and one for its column."""
        downs = {tuple(down.tolist()): down for _, down, _ in family}
        acrosses = {tuple(across.tolist()): across for _, _, across in family}
        pairs = {(tuple(down.tolist()), tuple(across.tolist())) for _, down, across in family}
        covers = sum(map(len, downs)) == rows and sum(map(len, acrosses)) == columns
        if not covers or not len(pairs) == len(family) == len(downs) * len(acrosses):
            self.misfits += 1
            self._freeze([token for token, _, _ in family], reason)
            return [], []
        new = [self.fresh(len(each)).cells for each in (downs, acrosses)]
        names = [
            dict(zip(each, (int(token) for token in made.reshape(-1)), strict=True))
            for each, made in zip((downs, acrosses), new, strict=True)
            if made is not None
        ]
        for token, down, across in family:
            self._expand(token, (names[0][tuple(down.tolist())], names[1][tuple(across.tolist())]))
        return (
            [_column(rows, downs[key], token) for key, token in names[0].items()],
            [_column(columns, acrosses[key], token) for key, token in names[1].items()],
        )

    def _difference(self, one: Layout, other: Layout) -> tuple[Cells, Cells]:
        """The rows where two layouts differ, without the tokens that both have there.

        Tokens that stay are as good as none, except where they face another one: the two are one
        group.
        """
        left, right = _aligned(self.cells(one), self.cells(other))
        rows = (left != right).any(axis=1)
        left, right = left[rows], right[rows]
        shared = (left[:, :, None] == right[:, None, :]) & (left[:, :, None] != NOTHING)
        left = sets(np.where(shared.any(axis=2), NOTHING, left))
        right = sets(np.where(shared.any(axis=1), NOTHING, right))
        pairs = (_single(left) & _single(right))[:, None]
        left = sets(np.where(self._stays[left] & ~pairs, NOTHING, left))
        right = sets(np.where(self._stays[right] & ~pairs, NOTHING, right))
        rows = (left[:, -1] != NOTHING) | (right[:, -1] != NOTHING)
        return left[rows], right[rows]

    def _join_singles(self, left: Cells, right: Cells) -> bool:
        single = _single(left) & _single(right)
        for one, other in zip(left[single, -1].tolist(), right[single, -1].tolist(), strict=True):
            self._join(one, other)
        return bool(single.any())

    def _expand_singles(self, left: Cells, right: Cells) -> bool:
        found = False
        for one, other in ((left, right), (right, left)):
            rows = np.flatnonzero(_single(one) & ~_single(other))
            for row in rows.tolist():
                token, parts = int(one[row, -1]), [int(each) for each in other[row] if each]
                if token in self._products or not self._is_root(token):
                    continue
                if all(self._is_root(part) for part in parts) and token not in parts:
                    self._expand(token, parts)
                    found = True
            if found:
                return True
        return False

    def _join_twins(self, left: Cells, right: Cells) -> bool:
        """Join tokens of two products that are in the same rows."""
        found: list[dict[tuple[int, ...], int]] = []
        for side in (left, right):
            at: dict[int, list[int]] = {}
            for row, tokens in enumerate(side.tolist()):
                for token in tokens:
                    if token != NOTHING:
                        at.setdefault(token, []).append(row)
            found.append({tuple(rows): token for token, rows in at.items()})
        shared = found[0].keys() & found[1].keys()
        for rows in sorted(shared):
            self._join(found[0][rows], found[1][rows])
        return bool(shared)

    def _is_root(self, token: int) -> bool:
        return int(self._parent[token]) == token and token not in self._products

    def _root(self, token: int) -> int:
        while (above := int(self._parent[token])) != token:
            token = above
        return token

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first == second or {first, second} & self._products.keys():
            return
        self._parent[second] = first
        self._version += 1
        for kept in (self._frozen, self._labels):
            if second in kept:
                kept.setdefault(first, kept.pop(second))
        self._stays[first] |= self._stays[second]

    def _expand(self, token: int, parts: Sequence[int]) -> None:
        """Let a token go when one of the parts goes."""
        self._products[token] = tuple(parts)
        self._version += 1
        self._labels.pop(token, None)
        if token in self._frozen:
            self._freeze(parts, self._frozen.pop(token))

    def _freeze(self, tokens: Iterable[int], reason: str) -> None:
        for token in tokens:
            if token != NOTHING:
                self._frozen.setdefault(int(token), reason)
                self._stays[token] = True

    def _roots(self, cells: Cells) -> Cells:
        while True:
            above = self._parent[cells]
            if (above == cells).all():
                products = [t for t in np.unique(cells).tolist() if t in self._products]
                if not products:
                    return sets(cells)
                cells = self._expanded(cells, products)
            else:
                cells = above

    def _expanded(self, cells: Cells, products: Sequence[int]) -> Cells:
        width = max(len(self._products[token]) for token in products)
        table = np.zeros((int(cells.max()) + 1, width), np.int64)
        table[:, -1] = np.arange(len(table))
        for token in products:
            parts = self._products[token]
            table[token] = (*(NOTHING,) * (width - len(parts)), *parts)
        return table[cells].reshape(len(cells), -1)


def _single(cells: Cells) -> NDArray[np.bool_]:
    return np.asarray((cells != NOTHING).sum(axis=1) == 1)


def _aligned(one: Cells, other: Cells) -> tuple[Cells, Cells]:
    width = max(one.shape[1], other.shape[1])
    return padded(one, width), padded(other, width)


def sets(cells: Cells) -> Cells:
    """Rows as sorted sets without doubles, padded in front, no wider than the largest."""
    cells = np.sort(cells, axis=1)
    double = np.zeros(cells.shape, bool)
    double[:, 1:] = cells[:, 1:] == cells[:, :-1]
    cells = np.sort(np.where(double, NOTHING, cells), axis=1)
    used = (cells != NOTHING).any(axis=0)
    return cells[:, min(int(used.argmax()) if used.any() else cells.shape[1], cells.shape[1] - 1) :]


def _column(size: int, at: Cells, token: int) -> Cells:
    column = np.zeros(size, np.int64)
    column[at] = token
    return column


def _gathered(columns: list[Cells], size: int) -> Cells:
    """Many columns, each with one token, as few: most tokens never meet."""
    filled = np.zeros(size, np.int64)
    for column in columns:
        filled += column != NOTHING
    cells = np.zeros((size, max(int(filled.max(initial=0)), 1)), np.int64)
    filled[:] = 0
    for column in columns:
        at = np.flatnonzero(column)
        cells[at, filled[at]] = column[at]
        filled[at] += 1
    return sets(cells)
