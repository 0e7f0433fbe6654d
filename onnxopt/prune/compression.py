"""Makes the weights of a model sparse or few-valued, layer after layer, and mends what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.prune.clustering import clustered
from onnxopt.prune.fit import damped
from onnxopt.prune.matrices import Matrix, constants, matrices, named
from onnxopt.prune.obs import output_errors
from onnxopt.prune.products import separate
from onnxopt.prune.sparsity import Pattern, sparse
from onnxopt.quantize.covariance import Covariance, covariances, each_covariance

Array = np.ndarray[Any, np.dtype[Any]]
Say = Callable[[float, str], None]

STAGES = 4
"""How often the inputs of the layers ahead are measured anew behind the layers that are done."""

MOST = 128
"""Samples to measure on at most; a sample of an image network gives up to 96 vectors."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be done: a pattern of zeros, a palette of `cluster` values, or both.

    `mend` lets weights and biases make up for what was lost; `keep` are patterns of names of nodes
    and weights that stay as they are.
    """

    pattern: Pattern | None = None
    cluster: int | None = None
    score: str = "reconstruction"
    mend: bool = True
    keep: tuple[str, ...] = ()
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """What became of one product: its weight, how many numbers that has, how many of them are 0
    and how many different values they take.

    `noise` is the squared error of its outputs over their variance by the moments of its inputs,
    None where they are not known; `dense` is why it has no new zeros, `whole` why no palette.
    """

    node: str
    op: str
    weight: str
    size: int
    zeros: int
    values: int
    noise: float | None = None
    dense: str = ""
    whole: str = ""


def compress(
    model: ir.Model, settings: Settings, feeds: Iterable[Feed] | None, *, say: Say | None = None
) -> tuple[ir.Model, tuple[Layer, ...]]:
    """A copy of the model with other weights, and what became of each product.

    With `feeds` the inputs of a layer are measured behind the layers that are done, and its bias
    takes up the shift of its mean.

    Raises BadInput where there is nothing to do, or a name in `keep` is none of the model's.
    """
    result = named(model)
    separate(result)
    found, left = matrices(result)
    _check(settings, found, left)
    job = _Job(settings, result, constants(result), say or (lambda share, doing: None))
    kept = {each.node for each in found if _is_kept(each, settings.keep)}
    todo = [each for each in found if each.node not in kept and job.touches(each)]
    layers = {each.node: job.layer(each, "it is kept by name") for each in found}
    layers |= job.run(todo, None if feeds is None else _First(feeds))
    layers |= {name: Layer(name, "", "", 0, 0, 0, None, why, why) for name, why in left.items()}
    copy = model.clone()
    separate(copy)
    written = {name for each in found for name in (each.weight, each.bias)}
    for name, value in constants(copy).items():
        tensor = ops.constant(job.values[name]) if name in written else None
        if tensor is not None:
            ops.store_constant(value, tensor)
    order = [node.name or "" for node in result.graph]
    return copy, tuple(sorted(layers.values(), key=lambda each: order.index(each.node)))


@dataclass(frozen=True, slots=True)
class _First(Iterable[Feed]):
    """The first of the feeds."""

    feeds: Iterable[Feed]

    def __iter__(self) -> Iterator[Feed]:
        return islice(iter(self.feeds), MOST)


@dataclass(frozen=True, slots=True)
class _Job:
    settings: Settings
    model: ir.Model
    values: Mapping[str, ir.Value]
    say: Say

    def touches(self, matrix: Matrix) -> bool:
        """Whether anything is to be done to a weight."""
        pattern = self.settings.pattern
        masked = pattern is not None and not pattern.refusal(matrix)
        return masked or self.settings.cluster is not None

    def run(self, todo: Sequence[Matrix], feeds: Iterable[Feed] | None) -> dict[str, Layer]:
        """Change the weights, and tell what became of each."""
        measured = [] if feeds is None else [each for each in todo if not each.unmeasured]
        means = self._means(measured, feeds)
        layers: dict[str, Layer] = {}
        for stage in _stages(todo, STAGES if self.settings.mend else 1):
            names = [each.node for each in stage if each.node in means]
            moments: Mapping[str, Covariance] = {}
            if names and feeds is not None:
                self.say(len(layers) / len(todo), f"measuring what {names[0]} reads")
                moments = covariances(self.model, feeds, names, threads=self.settings.threads)
            for each in stage:
                self.say(len(layers) / len(todo), f"settling {each.node}")
                layers[each.node] = self._change(each, moments.get(each.node), means)
        return layers

    def _means(self, measured: Sequence[Matrix], feeds: Iterable[Feed] | None) -> dict[str, Array]:
        """The means of what each layer reads in the original."""
        if feeds is None or not measured:
            return {}
        self.say(0.0, "measuring what the layers read")
        names = [each.node for each in measured]
        found = each_covariance(self.model, feeds, names, threads=self.settings.threads)
        return {name: moments.mean for name, moments in found}

    def _change(
        self, matrix: Matrix, moments: Covariance | None, means: Mapping[str, Array]
    ) -> Layer:
        settings = self.settings
        rows, offset = matrix.rows(self.values), matrix.offset(self.values)
        second = None if moments is None else damped(moments, centred=offset is not None)
        changed = rows
        if settings.pattern is not None and not settings.pattern.refusal(matrix):
            changed = sparse(
                rows, second, settings.pattern, window=matrix.window, score=settings.score,
                refit=settings.mend,
            )  # fmt: skip
        if settings.cluster is not None:
            changed = clustered(changed, second, settings.cluster, refit=settings.mend)
        if moments is not None and offset is not None and settings.mend:
            before = np.einsum("god,gd->go", rows, means[matrix.node])
            after = np.einsum("god,gd->go", changed, moments.mean)
            offset = offset + (before - after).reshape(-1)
        matrix.put(self.values, changed, offset)
        noise = None
        if second is not None:
            signal = float(output_errors(rows, np.zeros_like(rows), second).sum())
            noise = float(output_errors(rows, changed, second).sum()) / signal if signal else 0.0
        return self.layer(matrix, "", noise)

    def layer(self, matrix: Matrix, why: str, noise: float | None = None) -> Layer:
        """What a layer is like now; `why` is the reason where it was left alone."""
        rows = matrix.rows(self.values)
        pattern = self.settings.pattern
        refused = "" if pattern is None else pattern.refusal(matrix)
        return Layer(
            matrix.node, matrix.op, matrix.weight, rows.size, int((rows == 0).sum()),
            len(np.unique(rows)), noise, refused or why, why,
        )  # fmt: skip


def _stages(todo: Sequence[Matrix], count: int) -> list[Sequence[Matrix]]:
    size = max(1, -(-len(todo) // count))
    return [todo[start : start + size] for start in range(0, len(todo), size)]


def _is_kept(matrix: Matrix, keep: Sequence[str]) -> bool:
    names = (matrix.node, matrix.weight)
    return any(fnmatchcase(name, pattern) for pattern in keep for name in names)


def _check(settings: Settings, found: Sequence[Matrix], left: Mapping[str, str]) -> None:
    for pattern in settings.keep:
        if not any(_is_kept(each, (pattern,)) for each in found):
            raise BadInput(
                f"no weight or node with one is called {pattern!r} to keep",
                hint="see `onnxopt inspect`; patterns such as '*head*' are fine",
            )
    open_ = [each for each in found if not _is_kept(each, settings.keep)]
    reasons = dict.fromkeys(left.values())
    if settings.pattern is not None and settings.cluster is None:
        reasons |= dict.fromkeys(filter(None, map(settings.pattern.refusal, open_)))
        open_ = [each for each in open_ if not settings.pattern.refusal(each)]
    if not open_:
        raise BadInput(
            "no Conv, Gemm or MatMul of the model has weights that can be changed",
            hint="; ".join(list(reasons)[:3]) or "there are none outside of --keep",
        )
