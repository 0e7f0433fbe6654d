"""Fits a product for what the one behind it makes of it, where only an activation lies between.

The channels in between have no goal of their own: all that counts is what comes out of the second
product. Its error, led back through it and through the activation, says where the first one should
move; that is fitted as any goal is, so that together it is a Gauss-Newton step with a Hessian of
two factors (Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
Curvature", 2015). Rounds of such steps and of fits of the second product alternate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.goals import Goal, Sample, gathered, moved, room
from onnxopt.prune.products import Product, Weights, outputs_like
from onnxopt.prune.regression import Vectors, decide
from onnxopt.prune.relay import Piece, Relay
from onnxopt.prune.walk import name_of, read_by
from onnxopt.quantize.covariance import PATCHES
from onnxopt.quantize.patches import Rows, Window
from onnxopt.quantize.spool import Spool
from onnxopt.rewrite.dims import stretches_to
from onnxopt.rewrite.hit import Operand
from onnxopt.runtime.sessions import ASLEEP, Session

Array = np.ndarray[Any, np.dtype[Any]]

_BETWEEN = ops.ELEMENTWISE_UNARY | ops.ELEMENTWISE_BINARY | ops.ELEMENTWISE_VARIADIC
_DAMPING = 0.03
"""Added to the diagonal of the curvature, against its mean."""
_LOOKED_AT = 32
"""Samples that tell how often channels are active together."""
_STEP = 1e-3
"""The width of the difference that gives a slope, against the mean size of what is read."""
_SHARES = (1.0, 0.5, 0.25)
"""How much of a step of the first product is tried."""


class Walked:
    """Samples that stand before a product, and what should come out of the one behind it."""

    def __init__(self, goals: Spool, walk: Relay) -> None:
        self._goals, self._walk = goals, walk

    def __len__(self) -> int:
        return len(self._goals)

    def of(
        self, model: ir.Model, names: Sequence[str], places: Sequence[int] | None = None
    ) -> Iterator[Sample]:
        """The samples with these values of a model; with `places` only those there."""
        found = self._walk.onward(model, names, places)
        at = range(len(self)) if places is None else places
        return zip((np.asarray(self._goals[place]["goal"]) for place in at), found, strict=True)


def together(
    model: ir.Model,
    first: Product,
    second: Product,
    goal: Goal,
    samples: Walked,
    *,
    rounds: int,
    threads: int = 0,
) -> ir.Model:
    """A copy of the model with a product and the one behind it moved in turn, or itself.

    The second is fitted to its goal; a step of the first is kept where that brings the second
    nearer to its goal on the samples that no fit has seen. It ends where no step does.
    """
    deciding = decide(len(samples))

    def missed(of: ir.Model) -> float:
        return sum(
            float(np.square(goal.missed(wanted, found)).sum(dtype=np.float64))
            for wanted, found in samples.of(of, [goal.name], deciding)
        )

    for _ in range(rounds):
        read = gathered(second, model, goal, samples.of(model, goal.needed(second)))
        (model,) = moved(model, second, read, [1.0])
        pair = Pair(model, first, second, goal, threads)
        size = room(*Weights(model).rows(first).shape)
        steps = pair.steps(partial(samples.of, model, pair.names), size)
        least, best = missed(model), model
        for candidate in moved(model, first, steps, _SHARES):
            found = missed(candidate)
            if found >= least and best is not model:
                break
            if found < least:
                least, best = found, candidate
        if best is model:
            break
        model = best
    return model


def follower(first: Product, products: Sequence[Product], model: ir.Model) -> Product | None:
    """The one product that reads the outputs of another, through nothing but an activation.

    Both have to mix channels: else the first has a few weights alone, or the second none at all, to
    make up for others.
    """
    if not _mixes(first, model):
        return None
    known = {first.output}
    readers: set[tuple[str, str]] = set()
    for node in model.graph:
        read = {str(value.name) for value in read_by(node)}
        if not read & known:
            continue
        if _is_between(node, known):
            known |= {str(value.name) for value in node.outputs}
        else:
            readers |= {(name_of(node), name) for name in read & known}
    if known & {value.name for value in model.graph.outputs} or len(readers) != 1:
        return None
    ((node_name, source),) = readers
    found = next((each for each in products if each.node == node_name), None)
    if found is None or found.source != source or not _alike(first, found):
        return None
    return found if _mixes(found, model) else None


def _is_between(node: ir.Node, known: Collection[str]) -> bool:
    """Whether a node gives each number of a known value another one, by nothing but constants."""
    given = [value for value in node.inputs if value is not None]
    sources = [Operand(value) for value in given if value.name in known]
    others = [value for value in given if value.name not in known]
    if not ops.is_standard(node, *_BETWEEN) or len(node.outputs) != 1:
        return False
    return all(
        ops.is_constant(other) and all(stretches_to(Operand(other), each) for each in sources)
        for other in others
    )


def _alike(first: Product, second: Product) -> bool:
    """Whether the channels that one writes are on the axis where the other reads them."""
    if isinstance(first.vectors, Window):
        return isinstance(second.vectors, Window)
    if isinstance(second.vectors, Window):
        return False
    return not first.vectors.transposed and not second.vectors.transposed


def _mixes(product: Product, model: ir.Model) -> bool:
    """Whether a product sums over several channels; else none can make up for another."""
    columns = int(Weights(model).rows(product).shape[2])
    window = product.vectors
    return columns > (math.prod(window.kernel) if isinstance(window, Window) else 1)


class Pair:
    """Two products, the second behind the first, and where the first one should move."""

    def __init__(
        self, model: ir.Model, first: Product, second: Product, goal: Goal, threads: int
    ) -> None:
        self._model = model
        self._first, self._second, self._goal = first, second, goal
        self._threads = threads
        self._rows = Weights(model).rows(second)
        self.back = _Back(second, self._rows, threads)
        self._activation: Piece | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The values that are needed of each sample."""
        return self._first.source, self._first.output, self._second.source, self._goal.name

    def steps(self, samples: Callable[[], Iterable[Sample]], most_bytes: int) -> Vectors:
        """What the first product reads, and what it should give; the samples have `names`."""
        slopes = [
            outputs_like(self._first, self.slope(found), self._places(found, number))
            for number, (_, found) in enumerate(islice(samples(), _LOOKED_AT), 1)
        ]
        inverse = self._damped(np.concatenate(slopes))
        vectors = Vectors(most_bytes=most_bytes)
        for number, (goal, found) in enumerate(samples(), 1):
            back = self.back(self._goal.missed(goal, found), found[self._second.source].shape)
            given, places = found[self._first.output], self._places(found, number)
            rows = outputs_like(self._first, back * self.slope(found), places)
            parts = rows.reshape(len(rows), len(inverse), -1).swapaxes(0, 1)
            moves = np.matmul(parts, inverse).swapaxes(0, 1).reshape(rows.shape)
            vectors.add(
                self._first.vectors.vectors(found[self._first.source], PATCHES, number),
                outputs_like(self._first, given, places) + moves,
            )
        return vectors

    def _places(self, found: Mapping[str, Array], number: int) -> Array:
        return self._first.vectors.places(found[self._first.source].shape, PATCHES, number)

    def slope(self, found: Mapping[str, Array]) -> Array:
        """How much what the second product reads moves with each number of what the first gives."""
        name, given = self._first.output, found[self._first.output]
        source = self._second.source
        if name == source:
            return np.ones_like(given)
        if self._activation is None:
            self._activation = Piece(self._model, {name: given}, [source], self._threads)
        width = np.float32(_STEP * np.abs(given).mean() + 1e-12)
        up, down = (self._activation.run({name: given + side})[source] for side in (width, -width))
        return np.asarray((up - down) / (2 * width))

    def _damped(self, slopes: Array) -> Array:
        """The inverse of the curvature in what the first gives, from some slopes [rows, outputs].

        It is [groups, n, n] for as many groups as the second product has.
        """
        groups, outputs, columns = self._rows.shape
        size = slopes.shape[1] // groups
        taps = self._rows.reshape(groups, outputs, size, columns // size)
        squares = np.einsum("gocw,godw->gcd", taps, taps, optimize=True)
        if isinstance(self._second.vectors, Window):
            squares /= np.prod(self._second.vectors.strides)
        parts = slopes.reshape(len(slopes), groups, size).swapaxes(0, 1).astype(np.float64)
        squares *= np.matmul(parts.swapaxes(1, 2), parts) / len(slopes)
        level = _DAMPING * np.trace(squares, axis1=1, axis2=2).mean() / size
        found: Array = np.linalg.inv(squares + max(level, 1e-12) * np.eye(size))
        return found


class _Back:
    """Leads what a product gives back to what it reads."""

    def __init__(self, product: Product, rows: Array, threads: int) -> None:
        self._product = product
        self._rows = rows.astype(np.float32)
        self._threads = threads
        self._shape: tuple[int, ...] = ()
        self._session: Session | None = None

    def __call__(self, given: Array, shape: tuple[int, ...]) -> Array:
        window = self._product.vectors
        if isinstance(window, Rows):
            return np.asarray(given @ self._rows[0])
        if self._session is None or shape[1:] != self._shape:
            self._session = _transposed(window, self._rows, shape, self._threads)
            self._shape = shape[1:]
        (found,) = self._session.run({"given": given}, ["read"])
        return np.asarray(found)


def _transposed(window: Window, rows: Array, shape: tuple[int, ...], threads: int) -> Session:
    """A session that leads the output of a convolution back to its input of a shape [N, C, ...]."""
    sizes = shape[2:]
    pads = window.padding(sizes)
    axes = range(len(sizes))
    left = [
        (
            sizes[axis] + pads[axis] + pads[len(sizes) + axis]
            - (window.kernel[axis] - 1) * window.dilations[axis] - 1
        ) % window.strides[axis]
        for axis in axes
    ]  # fmt: skip
    weight = rows.reshape(-1, shape[1] // window.group, *window.kernel)
    given = ir.Value(
        name="given",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([None, len(weight), *(None for _ in axes)]),
    )
    stored = ir.Value(name="weight", const_value=ir.tensor(np.ascontiguousarray(weight)))
    node = ir.node(
        "ConvTranspose",
        [given, stored],
        {
            "strides": list(window.strides),
            "dilations": list(window.dilations),
            "pads": list(pads),
            "group": window.group,
            "output_padding": left,
        },
    )
    (read,) = node.outputs
    read.name, read.type = "read", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [given], [read], nodes=[node], initializers=[stored], opset_imports={"": 17}, name="back"
    )
    return Session.open(
        ir.Model(graph, ir_version=8), optimize=True, threads=threads, config=ASLEEP
    )
