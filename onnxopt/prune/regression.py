"""The best weight of a product for what it reads now and what should come out.

Where an activation behind the goal cuts values off, as Relu does below 0, all that lies beyond is
as good: the fit may miss there as it likes, which leaves more of the weight for the rest (Zhang et
al., "Accelerating Very Deep Convolutional Networks", 2015). Values that are already beyond stay
where they are; the rest is drawn to the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDS = 4
"""How often the goals beyond a border are set anew."""
RIDGES = (0.003, 0.03, 0.3, 3.0)
EVERY = 5
"""Each fifth sample decides on the ridge."""
INFINITE = (-np.inf, np.inf)


class Vectors:
    """What a product reads, what is added to its output later, and what should come out then.

    Once there are more than fit in `most_bytes`, every second one of all samples is dropped.
    """

    def __init__(self, limits: tuple[float, float] = INFINITE, most_bytes: int = 1 << 60) -> None:
        self._limits = limits
        self._room = most_bytes
        self.nbytes = 0
        self._step = 1
        self._samples: list[_Sample] = []

    def add(self, read: Array, goals: Array, added: Array | None = None) -> None:
        """Add those of one sample: [groups, n, columns], [n, outputs], and as much as that."""
        sample = _Sample(read, goals, added).thinned(self._step)
        self._samples.append(sample)
        self.nbytes += sample.nbytes
        while self.nbytes > self._room and self._step < read.shape[1]:
            self._step *= 2
            self._samples = [each.thinned(2) for each in self._samples]
            self.nbytes = sum(each.nbytes for each in self._samples)

    def fitted(self, rows: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """The weight in the form of `rows`, and its bias, that reach the goals best.

        How strongly it holds on to the weight before is chosen on each fifth sample. The
        vectors are gone after that.

        Args:
            rows: Weight before, float64 [groups, outputs / groups, columns].
            bias: Its bias, float64 [outputs]; None where there is none.
        """
        if not self._samples:
            return rows, bias
        problem = _Problem(self._samples, self._limits, centred=bias is not None)
        # They lie in the problem now.
        self._samples, self.nbytes = [], 0
        return problem.solved(rows, bias, problem.ridge(rows, bias), ROUNDS)


class _Sample:
    """The vectors of one sample, float32."""

    def __init__(self, read: Array, goals: Array, added: Array | None) -> None:
        self.read = np.asarray(read, np.float32)
        self.goals = np.asarray(goals, np.float32)
        self.added = None if added is None else np.asarray(added, np.float32)

    @property
    def nbytes(self) -> int:
        return self.read.nbytes + self.goals.nbytes * (1 if self.added is None else 2)

    def thinned(self, step: int) -> _Sample:
        """Each so many-th vector."""
        if step == 1:
            return self
        at = slice(None, None, step)
        added = None if self.added is None else self.added[at].copy()
        return _Sample(self.read[:, at].copy(), self.goals[at].copy(), added)


class _Problem:
    """Normal equations of vectors, those that decide on the ridge apart from the others."""

    def __init__(
        self, samples: Sequence[_Sample], limits: tuple[float, float], *, centred: bool
    ) -> None:
        others = [each for number, each in enumerate(samples, 1) if number % EVERY]
        ordered = [*others, *samples[EVERY - 1 :: EVERY]]
        self._limits = limits
        self._centred = centred
        self._read = np.concatenate([each.read for each in ordered], axis=1)
        self._goals = np.concatenate([each.goals for each in ordered])
        added = [each.added for each in ordered if each.added is not None]
        self._added = np.concatenate(added) if added else np.zeros((1, 1), np.float32)
        border = sum(len(each.goals) for each in others)
        self._parts = [slice(0, border), slice(border, len(self._goals))]
        # Squares of what is far from 0 lose digits.
        self._centre = self._read.mean(axis=1, dtype=np.float64)
        if not centred:
            self._centre[:] = 0
        self._read -= self._centre[:, None].astype(np.float32)
        parts = [self._read[:, part] for part in self._parts]
        self._squares = [np.matmul(x.swapaxes(1, 2), x).astype(np.float64) for x in parts]
        self._sums = [x.sum(axis=1, dtype=np.float64) for x in parts]

    def ridge(self, rows: Array, bias: Array | None) -> float:
        """The one of RIDGES that suits the vectors kept apart best."""
        if self._parts[1].start == self._parts[1].stop:
            return RIDGES[len(RIDGES) // 2]
        found = [self.solved(rows, bias, ridge, 1, parts=(0,)) for ridge in RIDGES]
        return RIDGES[int(np.argmin([self._error(*each) for each in found]))]

    def solved(
        self,
        rows: Array,
        bias: Array | None,
        ridge: float,
        rounds: int,
        *,
        parts: Sequence[int] = (0, 1),
    ) -> tuple[Array, Array | None]:
        """The weight and the bias that are best after so many rounds.

        `ridge` is how strongly they hold on to `rows`, against the mean variance of what is read.
        """
        count = sum(self._parts[part].stop - self._parts[part].start for part in parts)
        second = sum(self._squares[part] for part in parts) / count
        mean = sum(self._sums[part] for part in parts) / count
        if self._centred:
            second = second - mean[:, :, None] * mean[:, None, :]
        spread = np.trace(second, axis1=1, axis2=2) / second.shape[1]
        level = ridge * np.maximum(spread, 1e-12)[:, None, None]
        held = second + level * np.eye(second.shape[1])
        found = rows, bias
        for _ in range(rounds if self._limits != INFINITE else 1):
            cross, goal = self._cross(found, parts, count)
            fitted = np.linalg.solve(held, cross + level * rows.swapaxes(1, 2)).swapaxes(1, 2)
            shift = np.einsum("god,gd->go", fitted, mean + self._centre).reshape(-1)
            found = fitted, None if bias is None else goal - shift
        return found

    def _cross(
        self, found: tuple[Array, Array | None], parts: Sequence[int], count: int
    ) -> tuple[Array, Array]:
        """Moments of what is read with what is wanted, and the mean of that."""
        wanted = {part: self._wanted(*found, part)[0] for part in parts}
        total = sum(each.sum(axis=0, dtype=np.float64) for each in wanted.values())
        goal: Array = np.asarray(total) / count if self._centred else np.zeros(total.shape)
        cross = np.zeros((len(self._read), self._read.shape[2], len(goal) // len(self._read)))
        for part, each in wanted.items():
            apart = (each - goal.astype(np.float32)).reshape(len(each), len(self._read), -1)
            read = self._read[:, self._parts[part]]
            cross += np.matmul(read.swapaxes(1, 2), apart.swapaxes(0, 1))
        return cross / count, goal

    def _error(self, rows: Array, bias: Array | None) -> float:
        """The mean squared distance from the goals of the vectors kept apart."""
        wanted, found = self._wanted(rows, bias, 1)
        return float(np.square(wanted - found).mean(dtype=np.float64))

    def _wanted(self, rows: Array, bias: Array | None, part: int) -> tuple[Array, Array]:
        """What the product should give for a part of the vectors, and what it gives."""
        at = self._parts[part]
        added = self._added if len(self._added) == 1 else self._added[at]
        shift = np.einsum("god,gd->go", rows, self._centre).reshape(-1)
        found = outputs(self._read[:, at], rows, shift if bias is None else shift + bias)
        if self._limits == INFINITE:
            return self._goals[at] - added, found
        return bounded(self._goals[at], found + added, self._limits) - added, found


def bounded(goals: Array, found: Array, limits: tuple[float, float]) -> Array:
    """The goals, those beyond a limit moved to what is found there, or else to the limit."""
    low, high = limits
    up = np.where(goals <= low, np.minimum(found, low), goals)
    return np.where(goals >= high, np.maximum(found, high), up)


def outputs(read: Array, rows: Array, bias: Array | None) -> Array:
    """What a product gives for the vectors: float32 [n, outputs]."""
    each = np.matmul(read, rows.astype(np.float32).swapaxes(1, 2))
    found: Array = each.swapaxes(0, 1).reshape(each.shape[1], -1)
    return found if bias is None else found + bias.astype(np.float32)
