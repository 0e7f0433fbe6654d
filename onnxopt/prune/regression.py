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

        How strongly it holds on to the weight before is chosen on each fifth sample.

        Args:
            rows: Weight before, float64 [groups, outputs / groups, columns].
            bias: Its bias, float64 [outputs]; None where there is none.
        """
        if not self._samples:
            return rows, bias
        ridge = self._ridge(rows, bias)
        every = _Problem(self._samples, self._limits, centred=bias is not None)
        return every.solved(rows, bias, ridge, ROUNDS)

    def _ridge(self, rows: Array, bias: Array | None) -> float:
        held = self._samples[EVERY - 1 :: EVERY]
        if not held:
            return RIDGES[len(RIDGES) // 2]
        others = [each for number, each in enumerate(self._samples, 1) if number % EVERY]
        part = _Problem(others, self._limits, centred=bias is not None)
        judge = _Problem(held, self._limits, centred=bias is not None)
        errors = [judge.error(*part.solved(rows, bias, ridge, 1)) for ridge in RIDGES]
        return RIDGES[int(np.argmin(errors))]


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
    """Normal equations of the vectors of some samples."""

    def __init__(
        self, samples: Sequence[_Sample], limits: tuple[float, float], *, centred: bool
    ) -> None:
        self._limits = limits
        self._read = np.concatenate([each.read for each in samples], axis=1)
        self._goals = np.concatenate([each.goals for each in samples])
        added = [each.added for each in samples if each.added is not None]
        self._added = np.concatenate(added) if added else np.zeros(1, np.float32)
        self._mean = self._read.mean(axis=1, dtype=np.float64)
        if not centred:
            self._mean[:] = 0
        self._second: Array | None = None

    def solved(
        self, rows: Array, bias: Array | None, ridge: float, rounds: int
    ) -> tuple[Array, Array | None]:
        """The weight and the bias that are best after so many rounds.

        `ridge` is how strongly they hold on to `rows`, against the mean variance of what is read.
        """
        second = self._moments()
        spread = np.trace(second, axis1=1, axis2=2) / second.shape[1]
        level = ridge * np.maximum(spread, 1e-12)[:, None, None]
        held = second + level * np.eye(second.shape[1])
        found = rows, bias
        for _ in range(rounds if self._limits != INFINITE else 1):
            cross, goal = self._cross(self._wanted(*found), centred=bias is not None)
            right = cross + level * rows.swapaxes(1, 2)
            fitted = np.linalg.solve(held, right).swapaxes(1, 2)
            shift = np.einsum("god,gd->go", fitted, self._mean).reshape(-1)
            found = fitted, None if bias is None else goal - shift
        return found

    def error(self, rows: Array, bias: Array | None) -> float:
        """The mean squared distance from the goals."""
        found = outputs(self._read, rows, bias)
        return float(np.square(self._wanted(rows, bias) - found).mean(dtype=np.float64))

    def _wanted(self, rows: Array, bias: Array | None) -> Array:
        if self._limits == INFINITE:
            return self._goals - self._added
        found = outputs(self._read, rows, bias) + self._added
        return bounded(self._goals, found, self._limits) - self._added

    def _moments(self) -> Array:
        if self._second is None:
            apart = self._read - self._mean[:, None].astype(np.float32)
            found = np.matmul(apart.swapaxes(1, 2), apart).astype(np.float64)
            self._second = found / self._read.shape[1]
        return self._second

    def _cross(self, wanted: Array, *, centred: bool) -> tuple[Array, Array]:
        """Moments of what is read with what is wanted, and the mean of that."""
        goal = wanted.mean(axis=0, dtype=np.float64) if centred else np.zeros(wanted.shape[1])
        apart = wanted - goal.astype(np.float32)
        each = apart.reshape(len(apart), len(self._read), -1).swapaxes(0, 1)
        read = self._read - self._mean[:, None].astype(np.float32)
        cross = np.matmul(read.swapaxes(1, 2), each).astype(np.float64) / len(wanted)
        return cross, goal


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
