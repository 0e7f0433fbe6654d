"""What a product should give on samples, and copies of a model in which it comes nearer to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.prune.products import Product, Weights, limits, outputs_like, targets
from onnxopt.prune.regression import Vectors, bounded
from onnxopt.quantize.covariance import PATCHES

Array = np.ndarray[Any, np.dtype[Any]]
Sample: TypeAlias = "tuple[Array, Mapping[str, Array]]"
"""What should come out for a sample, and values of the model as it is."""

LEAST_BYTES, MOST_BYTES = 96 << 20, 320 << 20
"""The vectors of a product take at most this much, the more the longer they are; with more samples
there are fewer of each."""
_VECTORS_A_COLUMN = 8


@dataclass(frozen=True, slots=True)
class Goal:
    """What a product should give: the value it ends up in, and what is added to it on the way.

    Beyond the limits its numbers do not count.
    """

    name: str
    added: str
    limits: tuple[float, float]

    @classmethod
    def of(cls, product: Product, model: ir.Model) -> Goal:
        """That of a product of a model."""
        name, added = targets(product, model)
        return cls(name, added, limits(name, model))

    def needed(self, product: Product) -> list[str]:
        """The values that are needed of each sample to fit a product to it."""
        return [product.source, *([self.added] if self.added else [])]

    def missed(self, goal: Array, found: Mapping[str, Array]) -> Array:
        """What is missing of it, float32."""
        given = found[self.name]
        return np.asarray(bounded(goal, given, self.limits) - given, np.float32)


def gathered(product: Product, model: ir.Model, goal: Goal, samples: Iterable[Sample]) -> Vectors:
    """What a product of `model` reads, and what it should give; the samples have `goal.needed`."""
    vectors = Vectors(goal.limits, room(*Weights(model).rows(product).shape))
    for number, (wanted, found) in enumerate(samples, 1):
        source = np.asarray(found[product.source])
        places = product.vectors.places(source.shape, PATCHES, number)
        vectors.add(
            product.vectors.vectors(source, PATCHES, number),
            outputs_like(product, wanted, places),
            outputs_like(product, found[goal.added], places) if goal.added else None,
        )
    return vectors


def room(groups: int, outputs: int, columns: int) -> int:
    """How many bytes the vectors of a product with such a weight may take."""
    each = 4 * groups * (columns + 2 * outputs)
    return min(max(LEAST_BYTES, _VECTORS_A_COLUMN * columns * each), MOST_BYTES)


def moved(
    model: ir.Model, product: Product, vectors: Vectors, shares: Sequence[float]
) -> Iterator[ir.Model]:
    """Copies of the model with the product's weight so much of the way to its fit."""
    weights = Weights(model)
    rows, bias = weights.rows(product), weights.bias(product)
    fitted, offset = vectors.fitted(rows, bias)
    for share in shares:
        copy = model.clone()
        other = None if bias is None or offset is None else bias + share * (offset - bias)
        Weights(copy).put(product, rows + share * (fitted - rows), other)
        yield copy
