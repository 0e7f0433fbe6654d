"""The best weight of a product for what it reads now and what should come out.

Where an activation behind the goal cuts values off, as Relu does below 0, all that lies beyond is
as good: the fit may miss there as it likes, which leaves more of the weight for the rest (Zhang et
al., "Accelerating Very Deep Convolutional Networks", 2015). Values that are already beyond stay
where they are; the rest is drawn to the border.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxopt.quantize.spool import Spool

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDS = 4
"""How often the goals beyond a border are set anew."""
RIDGES = (0.003, 0.03, 0.3, 3.0, 30.0)
EVERY = 5
"""Each fifth sample, or block of samples, decides on the ridge, and nothing is ever fitted to it:
layers that know a sample give the later ones less to make up for than they do with others."""
_LEAST_BLOCK = 2 * EVERY
"""Blocks hold whole rounds of pictures and mirrored ones, see mirror."""
_BLOCKS = 40
INFINITE = (-np.inf, np.inf)

Weight: TypeAlias = "tuple[Array, Array | None]"
"""Rows, float64 [groups, outputs / groups, columns], and a bias, float64 [outputs], or none."""

BLOCK_BYTES = 8 << 20
"""So many vectors are in memory at a time. The others are on disk: memory is the same for more."""


class Vectors:
    """What a product reads, what is added to its output later, and what should come out then.

    They lie on disk. Once there are more than `most_bytes`, half of those of each sample are
    dropped, drawn at random: every second one would be every second column of a picture.
    """

    def __init__(self, limits: tuple[float, float] = INFINITE, most_bytes: int = 1 << 60) -> None:
        self._limits = limits
        self._room = most_bytes
        self.nbytes = 0
        self._step = 1
        self._samples = Spool()

    def add(self, read: Array, goals: Array, added: Array | None = None) -> None:
        """Add those of one sample: [groups, n, columns], [n, outputs], and as much as that."""
        order = np.random.default_rng(len(self._samples)).permutation(len(goals))
        self._keep(_Rows(read, goals, added).taken(order[:: self._step]))
        while self.nbytes > self._room and self._step < read.shape[1]:
            self._step *= 2
            before, self._samples, self.nbytes = self._samples, Spool(), 0
            for each in before:
                self._keep(_Rows(**each).taken(slice(None, None, 2)))

    def _keep(self, sample: _Rows) -> None:
        self._samples.add(sample.arrays)
        self.nbytes += sample.nbytes

    def fitted(self, rows: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """The weight in the form of `rows`, and its bias, that reach the goals best.

        They are fitted to four fifths of the samples. How strongly they hold on to the weight
        before is chosen on the others.

        Args:
            rows: Weight before, float64 [groups, outputs / groups, columns].
            bias: Its bias, float64 [outputs]; None where there is none.
        """
        if not self._samples:
            return rows, bias
        problem = _Problem(self._samples, self._limits, rows, bias)
        ridge, first = problem.chosen()
        # Without limits every round gives the same.
        return first if self._limits == INFINITE else problem.solved(ridge, ROUNDS - 1, first)


class _Rows:
    """Vectors of a sample or of several, float32."""

    def __init__(self, read: Array, goals: Array, added: Array | None) -> None:
        self.read = np.asarray(read, np.float32)
        self.goals = np.asarray(goals, np.float32)
        self.added = None if added is None else np.asarray(added, np.float32)

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        """All of them, in their order."""
        added = [each.added for each in parts if each.added is not None]
        return cls(
            np.concatenate([each.read for each in parts], axis=1),
            np.concatenate([each.goals for each in parts]),
            np.concatenate(added) if added else None,
        )

    @property
    def arrays(self) -> dict[str, Any]:
        """What it is made from."""
        return {"read": self.read, "goals": self.goals, "added": self.added}

    @property
    def nbytes(self) -> int:
        return self.read.nbytes + self.goals.nbytes * (1 if self.added is None else 2)

    @property
    def missing(self) -> Array:
        """The goals, less what is added later."""
        return self.goals if self.added is None else self.goals - self.added

    def taken(self, at: Array | slice) -> _Rows:
        """The vectors at these places."""
        added = None if self.added is None else self.added[at].copy()
        return _Rows(self.read[:, at].copy(), self.goals[at].copy(), added)


class _Part:
    """Vectors in blocks on disk, and sums over them."""

    def __init__(self, samples: Iterable[_Rows], centre: Array) -> None:
        self._blocks = Spool()
        self.count = 0
        self.squares: Array | float = 0.0
        self.sums: Array | float = 0.0
        self.goals: Array | float = 0.0
        for block in _blocks(samples):
            block.read -= centre[:, None].astype(np.float32)
            self._blocks.add(block.arrays)
            self.count += len(block.goals)
            self.squares += np.matmul(block.read.swapaxes(1, 2), block.read).astype(np.float64)
            self.sums += block.read.sum(axis=1, dtype=np.float64)
            self.goals += block.missing.sum(axis=0, dtype=np.float64)

    def __iter__(self) -> Iterator[_Rows]:
        return (_Rows(**each) for each in self._blocks)


def _blocks(samples: Iterable[_Rows]) -> Iterator[_Rows]:
    """The samples, as many together as make a block."""
    waiting: list[_Rows] = []
    size = 0
    for each in samples:
        waiting.append(each)
        size += each.nbytes
        if size >= BLOCK_BYTES:
            yield _Rows.joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _Rows.joined(waiting)


class _Problem:
    """Normal equations of vectors, those that decide on the ridge apart from the others."""

    def __init__(
        self, samples: Spool, limits: tuple[float, float], rows: Array, bias: Array | None
    ) -> None:
        self._limits = limits
        self._centred = bias is not None
        self._before: Weight = rows, bias
        # Squares of what is far from 0 lose digits.
        self._centre = _centre(samples) if self._centred else np.zeros_like(_centre(samples))
        deciding = decide(len(samples))
        places = sorted(set(range(len(samples))).difference(deciding))
        self._fit, self._deciding = (
            _Part((_Rows(**samples[at]) for at in part), self._centre)
            for part in (places, deciding)
        )
        count = self._fit.count
        self._usual = np.asarray(self._fit.goals) / count
        self._mean = np.asarray(self._fit.sums) / count
        self._second = np.asarray(self._fit.squares) / count
        if self._centred:
            self._second = self._second - self._mean[:, :, None] * self._mean[:, None, :]
        self._first = self._cross(self._before)

    def chosen(self) -> tuple[float, Weight]:
        """The one of RIDGES that suits the vectors kept apart best, and what one round gives.

        The error falls and then rises with the ridge, so that not all of them are tried.
        """
        best = len(RIDGES) // 2
        weight = self.solved(RIDGES[best], 1, self._before)
        if not self._deciding.count:
            return RIDGES[best], weight
        least = self._error(weight)
        for step in (1, -1):
            start = best
            while 0 <= best + step < len(RIDGES):
                other = self.solved(RIDGES[best + step], 1, self._before)
                error = self._error(other)
                if error >= least:
                    break
                best, weight, least = best + step, other, error
            if best != start:
                break
        return RIDGES[best], weight

    def solved(self, ridge: float, rounds: int, found: Weight) -> Weight:
        """The weight and the bias after so many more rounds from those that were found.

        `ridge` is how strongly they hold on to those before, against the mean variance of what is
        read.
        """
        rows, bias = self._before
        size = self._second.shape[1]
        spread = np.trace(self._second, axis1=1, axis2=2) / size
        level = ridge * np.maximum(spread, 1e-12)[:, None, None]
        held = self._second + level * np.eye(size)
        for _ in range(rounds):
            cross, goal = self._first if found is self._before else self._cross(found)
            fitted = np.linalg.solve(held, cross + level * rows.swapaxes(1, 2)).swapaxes(1, 2)
            shift = np.einsum("god,gd->go", fitted, self._mean + self._centre).reshape(-1)
            found = fitted, None if bias is None else goal - shift
        return found

    def _cross(self, found: Weight) -> tuple[Array, Array]:
        """Moments of what is read with what is wanted, and the mean of that."""
        cross, total = (each / self._fit.count for each in self._sums(found))
        if not self._centred:
            return cross, np.zeros(total.shape)
        # The moments are those with what is wanted less what is usual: its mean is `total`.
        apart = self._mean[:, :, None] * total.reshape(len(self._mean), 1, -1)
        return cross - apart, total + self._usual

    def _sums(self, found: Weight) -> tuple[Array, Array]:
        """Sums of what is wanted, less what is usual, with what is read and alone."""
        usual = np.asarray(self._usual if self._centred else 0.0, np.float32)
        cross: Array | float = 0.0
        total: Array | float = 0.0
        for block in self._fit:
            apart = self._wanted(found, block) - usual
            total += apart.sum(axis=0, dtype=np.float64)
            apart = apart.reshape(len(apart), len(block.read), -1).swapaxes(0, 1)
            cross += np.matmul(block.read.swapaxes(1, 2), apart).astype(np.float64)
        return np.asarray(cross), np.asarray(total)

    def _error(self, found: Weight) -> float:
        """The mean squared distance from the goals of the vectors kept apart."""
        total = 0.0
        for block in self._deciding:
            missed = self._wanted(found, block) - self._outputs(found, block)
            total += float(np.square(missed).sum(dtype=np.float64))
        return total / self._deciding.count

    def _wanted(self, found: Weight, block: _Rows) -> Array:
        """What the product should give for the vectors; beyond a limit that is what it gives."""
        if self._limits == INFINITE:
            return block.missing
        added = 0.0 if block.added is None else block.added
        given = self._outputs(found, block) + added
        return np.asarray(bounded(block.goals, given, self._limits) - added)

    def _outputs(self, found: Weight, block: _Rows) -> Array:
        """What the product gives for the vectors."""
        rows, bias = found
        shift = np.einsum("god,gd->go", rows, self._centre).reshape(-1)
        return outputs(block.read, rows, shift if bias is None else shift + bias)


def decide(count: int) -> list[int]:
    """The places of the samples that decide on the ridge, of so many, counted from 0.

    Neighbours may be alike, so that they are blocks where there are enough (see samples.is_apart).
    """
    block = max(1, round(count / _BLOCKS / _LEAST_BLOCK)) * _LEAST_BLOCK
    size = block if count >= EVERY * block else 1
    return [place for place in range(count) if place // size % EVERY == EVERY - 1]


def _centre(samples: Spool) -> Array:
    """The mean of what is read: float64 [groups, columns]."""
    total: Array | float = 0.0
    count = 0
    for each in samples:
        total += each["read"].sum(axis=1, dtype=np.float64)
        count += each["read"].shape[1]
    return np.asarray(total) / count


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
