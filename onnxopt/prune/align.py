"""Gives attention heads bases in which the last channels of each hardly matter.

A query meets a key in a sum over the channels of a head, and what a head gives meets the next
weight in another. Any invertible matrix can stand on one side of such a sum with its inverse on
the other: the model computes what it did. Its own channels all matter about as much; in the basis
of the singular vectors of both sides the last ones give little (Ashkboos et al., "SliceGPT", 2024,
turns the residual stream like that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.prune.products import Product, Weights
from onnxopt.prune.records import Group
from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]
Moments = Mapping[str, Covariance]
Holds = Callable[[ir.Model], bool]
"""Whether a model still computes what it did."""

KIND = "head width"
_FLOOR = 1e-4
"""Directions that vary less than this share of the strongest one are held up to it."""


def align(
    model: ir.Model,
    groups: Iterable[Group],
    products: Mapping[str, Product],
    moments: Moments,
    holds: Holds,
) -> tuple[ir.Model, dict[str, Covariance]]:
    """A copy with the bases of its heads turned, and the moments of what its products read then.

    Args:
        model: The model.
        groups: Its groups; those of another kind than KIND stay, and frozen ones.
        products: Its products.
        moments: Moments of what they read.
        holds: Is asked after each group: what lies between the two sides of a sum, such as a
            rotation by position, may not let a basis be turned. Where it says no, the group stays.
    """
    found = dict(moments)
    for group in groups:
        if group.kind != KIND or group.frozen or group.multiple != 1:
            continue
        turned = _turned(model, group, products, found)
        if turned is not None and holds(turned[0]):
            model, found = turned
    return model, found


def bases(first: Array, second: Array) -> tuple[Array, Array]:
    """Matrices A and B with A.T @ B = 1 that turn the two sides of a sum, strongest channel first.

    Args:
        first: Mean of x x' over the vectors x of one side: float64 [n, n].
        second: The same of the other side. In the new bases both are diagonal, and equal.
    """
    root, inverse = _roots(first)
    values, vectors = np.linalg.eigh(root @ second @ root)
    order = np.argsort(-values, kind="stable")
    strong = values[order].clip(_FLOOR**2 * max(float(values.max()), 1e-30)) ** 0.25
    turn = vectors[:, order].T
    return strong[:, None] * (turn @ inverse), (turn @ root) / strong[:, None]


def _roots(matrix: Array) -> tuple[Array, Array]:
    """The square root of a matrix and its inverse."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(values.clip(_FLOOR * max(float(values.max()), 1e-30)))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _turned(
    model: ir.Model, group: Group, products: Mapping[str, Product], moments: Moments
) -> tuple[ir.Model, dict[str, Covariance]] | None:
    """The model with one group turned; None where it is not between two products we know."""
    writers = [products.get(writer.node) for writer in group.writers]
    known = [product for product in writers if product is not None and product.node in moments]
    if len(known) != len(group.writers) or not _is_plain(group, known):
        return None
    if len(known) == 2 and not group.readers:
        return _turned_scores(model, group, known, moments)
    reader = products.get(group.readers[0].node) if len(group.readers) == 1 else None
    if len(known) == 1 and reader is not None and reader.node in moments:
        return _turned_values(model, group, known[0], reader, moments)
    return None


def _is_plain(group: Group, writers: Iterable[Product]) -> bool:
    """Whether each side has as many heads, and a bias only where it can be turned."""
    heads = {len(at) for writer in group.writers for at in writer.weight.positions}
    biases = zip(writers, group.writers, strict=True)
    return len(heads) == 1 and all((p.bias is None) == (w.bias is None) for p, w in biases)


def _turned_scores(
    model: ir.Model, group: Group, sides: list[Product], moments: Moments
) -> tuple[ir.Model, dict[str, Covariance]]:
    """Queries and keys in the bases in which the first channels make up most of their products."""
    copy = model.clone()
    weights = Weights(copy)
    rows = [weights.rows(side)[0] for side in sides]
    offsets = [weights.bias(side) for side in sides]
    for at in _heads(group):
        # What is the same for all keys is nothing to the softmax: their mean does not count.
        query = _moment(rows[0][at], offsets[0], at, moments[sides[0].node])
        key = rows[1][at] @ moments[sides[1].node].centred[0] @ rows[1][at].T
        for index, turn in enumerate(bases(query, key)):
            rows[index][at] = turn @ rows[index][at]
            offsets[index] = _times(offsets[index], at, turn)
    for side, row, offset in zip(sides, rows, offsets, strict=True):
        weights.put(side, row[None], offset)
    return copy, dict(moments)


def _turned_values(
    model: ir.Model, group: Group, writer: Product, reader: Product, moments: Moments
) -> tuple[ir.Model, dict[str, Covariance]] | None:
    """Values in the basis in which the first channels make up most of what their reader gives."""
    columns = reader.columns.get(group.name, ())
    if {len(at) for at in columns} != {len(group.writers[0].weight.positions[0])}:
        return None
    copy = model.clone()
    weights = Weights(copy)
    rows, offset, read = weights.rows(writer)[0], weights.bias(writer), weights.rows(reader)
    if read.shape[0] != 1:
        return None
    centred = moments[reader.node].centred[0]
    whole = np.eye(read.shape[2])
    for at, into in zip(_heads(group), np.array(columns).T, strict=True):
        inner = read[0][:, into]
        turn, back = bases(centred[np.ix_(into, into)], inner.T @ inner)
        rows[at], offset = turn @ rows[at], _times(offset, at, turn)
        read[0][:, into] = inner @ back.T
        whole[np.ix_(into, into)] = turn
    weights.put(writer, rows[None], offset)
    weights.put(reader, read, weights.bias(reader))
    old = moments[reader.node]
    fresh = replace(old, second=whole @ old.second @ whole.T, mean=old.mean @ whole.T)
    return copy, {**moments, reader.node: fresh}


def _heads(group: Group) -> Array:
    """The rows of each head in the writers' weights: [heads, channels]."""
    return np.asarray(np.array(group.writers[0].weight.positions).T)


def _moment(rows: Array, offset: Array | None, at: Array, read: Covariance) -> Array:
    """The mean of y y' over what the rows give."""
    mean = rows @ read.mean[0] + (0 if offset is None else offset[at])
    return np.asarray(rows @ read.centred[0] @ rows.T + np.outer(mean, mean))


def _times(offset: Array | None, at: Array, turn: Array) -> Array | None:
    if offset is None:
        return None
    moved: Array = np.array(offset)
    moved[at] = turn @ moved[at]
    return moved
