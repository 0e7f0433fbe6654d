"""Second moments of what products read: what rounding a weight costs at the output.

Rounding to codes that make up for each other's errors (Frantar et al., "GPTQ", 2022, after
LeCun's Optimal Brain Damage) minimises e' S e over the errors e of a weight's row, with S the mean
of v v' over the vectors v that the row is multiplied with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.quantize.calibrate import Progress
from onnxopt.quantize.observe import BUDGET_BYTES, Activations, Observer, activations
from onnxopt.quantize.patches import Vectors, Window, vectors_of
from onnxopt.quantize.spool import numbered, repeatable

Array = np.ndarray[Any, np.dtype[Any]]

PATCHES = 96
"""Vectors taken of a sample at most. A hundred samples give 9,600 of a layer, which is several
times the longest vectors of image networks, and neighbours say little that is new: 64 and 256 of
them give EfficientNet-Lite0 the same accuracy."""

MATRIX_BYTES = 512 << 20
"""Matrices that are added up at the same time take at most this much, but for one alone."""


@dataclass(frozen=True, slots=True)
class Covariance:
    """Moments of the vectors that a product multiplies its weights with.

    `second` is the mean of v v', float64 [groups, D, D], and `mean` that of v, float64 [groups, D],
    with D = C / groups * kernel in the order of a Conv weight's row, or the rows K of a matrix.
    `count` vectors were looked at.
    """

    second: Array
    mean: Array
    count: int

    @property
    def centred(self) -> Array:
        """The covariance in the strict sense, float64 [groups, D, D]: the mean is taken out.

        It is what rounding costs where a bias makes up for the mean.
        """
        outer: Array = self.mean[:, :, None] * self.mean[:, None, :]
        return np.subtract(self.second, outer)

    def shrunk(self, second: Array) -> Array:
        """Moments of these vectors with what few vectors make up taken out: float64 [groups, D, D].

        Where there are not many more vectors than columns, columns seem to go together that do not
        elsewhere, and codes that count on it are worse on other data: on sentences unlike those
        calibrated on, MiniLM wins 1 dB of noise with D / (D + count) taken off all but the
        diagonal (Ledoit and Wolf, 2004, with a fixed share). Images are no different, as
        patches of one are alike: ResNet-20 loses 5% of its noise, EfficientNet-Lite0 3%.
        """
        size = second.shape[-1]
        kept = second * (self.count / (size + self.count))
        places = np.arange(size)
        kept[:, places, places] = second[:, places, places]
        return np.asarray(kept)


def covariances(
    model: ir.Model,
    feeds: Iterable[Feed],
    nodes: Sequence[str],
    *,
    patches: int = PATCHES,
    matrix_bytes: int = MATRIX_BYTES,
    progress: Progress | None = None,
    threads: int = 0,
    budget_bytes: int = BUDGET_BYTES,
) -> dict[str, Covariance]:
    """All that `each_covariance` gives, at once, by node name."""
    return dict(
        each_covariance(
            model,
            feeds,
            nodes,
            patches=patches,
            matrix_bytes=matrix_bytes,
            progress=progress,
            threads=threads,
            budget_bytes=budget_bytes,
        )
    )


def each_covariance(
    model: ir.Model,
    feeds: Iterable[Feed],
    nodes: Sequence[str],
    *,
    patches: int = PATCHES,
    matrix_bytes: int = MATRIX_BYTES,
    progress: Progress | None = None,
    threads: int = 0,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[tuple[str, Covariance]]:
    """The moments of each named node with the name, a group of nodes at a time, in graph order.

    The data is read once for each group of nodes whose matrices fit in `matrix_bytes`; nodes that
    read the same vectors share theirs. Nothing is kept of a group when the next one begins.

    Args:
        model: The model; it is not changed.
        feeds: The samples. One that can be read only once is copied to disk.
        nodes: Names of Conv, Gemm and MatMul nodes with a constant weight, see `refusal`.
        patches: Vectors of a sample to look at, drawn at random (the same ones every time); a
            matrix has one row for each sample, and all of them are taken.
        matrix_bytes: See above.
        progress: Called before each sample with the share done (0 if not known) and a word.
        threads: Threads of onnxruntime inside an operator, 0 for its own choice.
        budget_bytes: How much one run of the model may hand out.

    Raises:
        BadInput: A node is unknown or has no such moments, a value is not finite, or there is no
            data.
        RuntimeFailed: onnxruntime can't load or run the model.
    """
    found = activations(model)
    wanted = _sources(found, nodes)
    again = repeatable(feeds)
    for group in _grouped(wanted, matrix_bytes):
        names = list(dict.fromkeys(source.name for source in group))
        observer = Observer(found, names, threads=threads, budget_bytes=budget_bytes)
        sums = {source: _Sums() for source in group}
        for number, feed in numbered(again):
            if progress is not None:
                progress(0.0, f"measuring inputs of products, sample {number}")
            for name, array in observer.arrays(feed, number):
                for source in (each for each in group if each.name == name and array.size):
                    sums[source].add(source.vectors.vectors(array, patches, number))
        for source in group:
            moments = sums.pop(source).finished(source.name)
            yield from ((node, moments) for node in wanted[source])


def refusal(node: ir.Node) -> str:
    """Why the moments of what this node reads can't be had; empty where they can."""
    found = vectors_of(node)
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class _Source:
    """Vectors of a value, `length` numbers each in `groups` groups."""

    name: str
    vectors: Vectors
    groups: int
    length: int

    @property
    def matrix_bytes(self) -> int:
        return 8 * self.groups * self.length * self.length


@dataclass(slots=True)
class _Sums:
    """Sums over vectors. A few vectors add little to a large matrix at the cost of all of it, so
    they wait until there are half as many as it has columns."""

    second: Array | None = None
    total: Array | None = None
    count: int = 0
    waiting: list[Array] = field(default_factory=list)

    def add(self, vectors: Array) -> None:
        rows = np.array(vectors, np.float32)
        if rows.shape[1] == 0:
            return
        self.waiting.append(rows)
        self.count += rows.shape[1]
        if 2 * sum(each.shape[1] for each in self.waiting) >= rows.shape[2]:
            self._sum()

    def _sum(self) -> None:
        if not self.waiting:
            return
        rows = np.concatenate(self.waiting, axis=1)
        self.waiting.clear()
        # Who uses the moments looks whether they are finite.
        with np.errstate(over="ignore", invalid="ignore"):
            second = np.matmul(rows.transpose(0, 2, 1), rows)
            total = rows.sum(axis=1).astype(np.float64)
            if self.second is None or self.total is None:
                self.second, self.total = second.astype(np.float64), total
            else:
                self.second += second
                self.total += total

    def finished(self, name: str) -> Covariance:
        self._sum()
        if self.second is None or self.total is None:
            raise BadInput(f"the value {name!r} is empty in every sample")
        self.second /= self.count
        return Covariance(self.second, self.total / self.count, self.count)


def _sources(found: Activations, nodes: Sequence[str]) -> Mapping[_Source, list[str]]:
    """What the named nodes read, in graph order, with the nodes that read it."""
    named = {node.name or "": node for node in found.model.graph}
    for name in nodes:
        why = refusal(named[name]) if name in named else "the model has no such node"
        if why:
            raise BadInput(f"the inputs of {name!r} can't be measured: {why}")
    wanted = set(nodes)
    sources: dict[_Source, list[str]] = {}
    for name, node in named.items():
        if name in wanted:
            sources.setdefault(_source(found, node), []).append(name)
    return sources


def _source(found: Activations, node: ir.Node) -> _Source:
    looked = vectors_of(node)
    assert not isinstance(looked, str), "refused before"
    value, vectors = looked
    (name,) = found.choose([value.name or ""])
    weight = node.inputs[0 if node.inputs[1] is value else 1]
    tensor = ops.constant(weight)
    assert tensor is not None, "it has a constant weight"
    shape = tuple(tensor.shape.numpy())
    if isinstance(vectors, Window):
        return _Source(name, vectors, vectors.group, int(np.prod(shape[1:])))
    along = 1 if weight is node.inputs[0] else 0
    if node.op_type == "Gemm" and "transB" in node.attributes:
        along = node.attributes["transB"].as_int()
    return _Source(name, vectors, 1, shape[along])


def _grouped(sources: Iterable[_Source], limit: int) -> list[list[_Source]]:
    groups: list[list[_Source]] = []
    room = 0
    for source in sources:
        if not groups or source.matrix_bytes > room:
            groups.append([])
            room = limit
        groups[-1].append(source)
        room -= source.matrix_bytes
    return groups
