"""Runs a model piece by piece over many samples: each piece once, whatever is changed before it.

What later nodes need of the earlier ones is kept on disk for every sample, so that a walk through
all products of a model takes about one run of it a sample, and no more memory for more samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput
from onnxopt.prune.walk import name_of, read_by
from onnxopt.quantize.spool import Spool
from onnxopt.runtime.sessions import ASLEEP, Session

Array = np.ndarray[Any, np.dtype[Any]]


class Relay:
    """Samples on their way through a model, which may change in front of them."""

    def __init__(self, feeds: Iterable[Feed], *, threads: int = 0) -> None:
        self._feeds = feeds
        self._threads = threads
        self._stands: dict[str, Spool] | None = None
        self._count = 0

    def to(self, model: ir.Model, node: str, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run every sample on to just before a node, and give the wanted values of each.

        The wanted values may lie behind that node, but not before the last one that was walked to.
        The walk gets there only where all samples are taken.

        Args:
            model: The model; up to where the walk stands it has to be what it was.
            node: Name of a node of the main graph.
            wanted: Names of values.

        Raises:
            BadInput: A wanted value is NaN or infinite.
        """
        crossing = crossing_values(model, node)
        before = self._stands or {}
        reached = {name: before.get(name) or Spool() for name in crossing}
        fresh = [name for name in crossing if name not in before]
        count = 0
        for found in self.onward(model, tuple(dict.fromkeys((*wanted, *fresh)))):
            for name in fresh:
                reached[name].add({name: found[name]})
            count += 1
            yield {name: _finite(name, found[name]) for name in wanted}
        self._stands, self._count = reached, count

    def onward(
        self, model: ir.Model, wanted: Sequence[str], places: Collection[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The wanted values of each sample, run from where the walk stands; it stays there.

        With `places` only of the samples at these, counted from 0.
        """
        if self._stands is None:
            feeds = (f for at, f in enumerate(self._feeds) if places is None or at in places)
            first = next(feeds, None)
            if first is None:
                return
            piece = Piece(model, first, wanted, self._threads)
            items: Iterator[Feed] = itertools.chain([first], feeds)
        else:
            chosen = [at for at in range(self._count) if places is None or at in places]
            if not chosen:
                return
            piece = Piece(model, self._stand(chosen[0], self._stands), wanted, self._threads)
            items = (self._stand(at, piece.reads) for at in chosen)
        for given in items:
            yield piece.run(given)

    def _stand(self, place: int, names: Iterable[str]) -> Feed:
        """The values of a sample where the walk stands."""
        assert self._stands is not None
        return {name: self._stands[name][place][name] for name in names}


def crossing_values(model: ir.Model, node: str) -> tuple[str, ...]:
    """The values, inputs among them, that come before a node and are read by it or a later one.

    So are the outputs of the model that come before it.
    """
    known = {value.name: value for value in model.graph.inputs if not value.is_initializer()}
    nodes = iter(model.graph)
    for each in nodes:
        if name_of(each) == node:
            break
        known |= {value.name: value for value in each.outputs if not ops.is_constant(value)}
    else:
        raise KeyError(node)
    read = {value.name for later in (each, *nodes) for value in read_by(later)}
    read |= {value.name for value in model.graph.outputs}
    return tuple(str(name) for name in known if name in read)


class Piece:
    """The part of a model between the values of a sample and those that are asked for.

    `reads` are the names of the values that it starts from, of those that are given.
    """

    def __init__(self, model: ir.Model, given: Feed, names: Sequence[str], threads: int) -> None:
        self._passed = [name for name in names if name in given]
        self._made = [name for name in names if name not in given]
        self._session = None
        if self._made:
            copy = _cut(model, given, self._made)
            self._session = Session.open(copy, optimize=True, threads=threads, config=ASLEEP)

        feedable = () if self._session is None else self._session.feedable
        self.reads = tuple(name for name in given if name in feedable or name in self._passed)

    def run(self, given: Feed) -> dict[str, Any]:
        """The values of a sample, of which those in `reads` are given."""
        found: dict[str, Any] = {name: given[name] for name in self._passed}
        if self._session is not None:
            feed = {name: v for name, v in given.items() if name in self._session.feedable}
            found |= zip(self._made, self._session.run(feed, self._made), strict=True)
        return found


def _cut(model: ir.Model, given: Feed, wanted: Sequence[str]) -> ir.Model:
    """A copy that starts from the given values and ends at the wanted ones."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    for name, array in given.items():
        if name in values:
            fresh = ir.Value(name=f"{name}_given", type=values[name].type, shape=values[name].shape)
            values[name].replace_all_uses_with(fresh)
            values[name].name, fresh.name = f"{name}_made", name
            fresh.type = ir.TensorType(ir.DataType.from_numpy(np.asarray(array).dtype))
            copy.graph.inputs.append(fresh)
    for name in wanted:
        copy.graph.outputs.append(values[name])
    common.RemoveUnusedNodesPass()(copy)
    used = {value for node in copy.graph.all_nodes() for value in node.inputs}
    for value in [v for v in copy.graph.inputs if v not in used]:
        copy.graph.inputs.remove(value)
        copy.graph.initializers.pop(value.name or "", None)
    return copy


def _finite(name: str, value: Any) -> Array:
    array = np.asarray(value)
    if not np.isfinite(array).all():
        raise BadInput(
            f"the value {name!r} is NaN or infinite on a sample",
            hint="look at the sample, or at the model with `onnxopt validate`",
        )
    return array
