"""The values inside a model as it runs: which there are, and a stream of them, sample by sample."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed, InputSpec, checked_feed, inputs_of
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.passes.shapes import declared_copy, infer
from onnxopt.quantize.ahead import threads_each
from onnxopt.quantize.stacking import stack
from onnxopt.runtime import types
from onnxopt.runtime.sessions import ASLEEP, Session

Array = np.ndarray[Any, np.dtype[Any]]

BUDGET_BYTES = 256 << 20
"""The values that one run hands out take at most this much, but for one that is larger itself."""

# Between two runs the values are counted here; threads that wait awake would take half the machine.
_SHARING = {**ASLEEP, "session.disable_prepacking": "1"}
_SIZE = "onnxopt_size_"
_BROADCASTING = ops.ELEMENTWISE_UNARY | ops.ELEMENTWISE_BINARY


@dataclass(frozen=True, slots=True)
class Activations:
    """The float32 values of a model's main graph that depend on its inputs, in graph order.

    `values` has those that a node reads or writes, their types and shapes known as far as they can
    be; they may belong to a copy of `model`. `notes` say what was left out, `precision` is the
    float type other than float32 that the model computes in, if any.
    """

    model: ir.Model
    values: Mapping[str, ir.Value]
    notes: tuple[str, ...] = ()
    precision: str = ""

    def choose(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """The names in graph order, all of them for None.

        Raises:
            BadInput: A name is none of them, or there are none at all.
        """
        if not self.values:
            raise BadInput(self._nothing(), hint="quantize the float32 model it was made from")
        for name in names or ():
            if name not in self.values:
                near = difflib.get_close_matches(name, self.values, 1)
                guess = f"did you mean {near[0]!r}? " if near else ""
                raise BadInput(
                    f"the model computes no float32 value {name!r} from its inputs",
                    hint=f"{guess}see `onnxopt inspect` for what is in the model",
                )
        wanted = self.values if names is None else set(names)
        return tuple(name for name in self.values if name in wanted)

    def _nothing(self) -> str:
        if not self.precision:
            return "the model computes no float32 value from its inputs: nothing can be quantized"
        return f"the model computes in {self.precision}, and only float32 can be quantized"


def activations(model: ir.Model) -> Activations:
    """The float32 values to observe; weights, and what is computed from nothing else, are not.

    Values inside the bodies of If, Loop and Scan have no name outside of them and are left out, as
    a note says. The model stays as it is: types it lacks are inferred on a copy.
    """
    known = model
    if any(value.type is None for node in model.graph for value in node.outputs if value.name):
        known = model.clone()
        infer(known)
        types.complete(known)
    varying = _varying(known)
    found = {
        value.name or "": value
        for value in varying
        if _is_float32(value) and (value.producer() is not None or value.uses())
    }
    return Activations(model, found, _inside_bodies(known), _other_precision(varying))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Samples that are ready to run: `rows`, called once, gives each value with its name.

    Where the values come in parts, each part runs when it is asked for, and only the thread that
    the observer belongs to may do so.
    """

    rows: Callable[[], Iterator[tuple[str, Array]]]
    in_parts: bool


class Observer:
    """Runs a model and hands out values by name, a part of them at a time.

    onnxruntime's optimizations are on: a value that is handed out is computed and keeps its name,
    with the rounding of the kernels that a user of the float model runs.
    """

    def __init__(
        self,
        found: Activations,
        names: Sequence[str],
        *,
        threads: int = 0,
        at_once: int = 1,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._model = found.model
        self._values = found.values
        self._inputs: tuple[InputSpec, ...] = inputs_of(found.model)
        given = {spec.name for spec in self._inputs}
        self._given = [name for name in names if name in given]
        self._made = [name for name in names if name not in given]
        self._threads = threads
        self._at_once = at_once
        self._budget = budget_bytes
        self._sessions: dict[tuple[str, ...], Session] = {}
        self._sizing: Session | None = None
        self._largest: dict[str, tuple[int, ...]] = {}
        self._parts: list[tuple[str, ...]] = []

    def arrays(self, feed: Feed, number: int) -> Iterator[tuple[str, Array]]:
        """Each value with its name: float32 arrays, known to be finite.

        An array is not kept here when the next one is asked for. `number` counts the samples from 1
        for messages.

        Raises:
            BadInput: The feed does not fit the model, has no element at all, or a value is NaN or
                infinite; the message names it.
            RuntimeFailed: The feed does not run.
        """
        for name, array in self._raw(self._checked(feed, number), number):
            refuse_not_finite(name, array, number)
            yield name, array

    def rows(self, feeds: Sequence[Feed], first: int) -> Iterator[tuple[str, Array]]:
        """The same for samples that run as one, as [samples, elements], finite or not.

        `first` is the number of the first of them. What they are stacked along has to be the
        outermost dim of every value, or none of it.

        Raises:
            BadInput: A feed does not fit the model, or has no element at all.
            RuntimeFailed: The feeds do not run.
        """
        return self.prepared(feeds, first).rows()

    def prepared(self, feeds: Sequence[Feed], first: int) -> Prepared:
        """What gives the same `rows` later, and by another thread, see Prepared.

        Raises:
            BadInput: A feed does not fit the model, or has no element at all.
        """
        feed = stack([self._checked(feed, first + i) for i, feed in enumerate(feeds)])
        count = len(feeds)
        parts = self._partition(feed, first)
        if len(parts) != 1:
            return Prepared(lambda: _all_as_rows(self._raw(feed, first), count), in_parts=True)
        (part,), session = parts, self._session(parts[0])

        def run() -> Iterator[tuple[str, Array]]:
            arrays = self._run(session, feed, list(part), first)
            return _all_as_rows(chain(self._fed(feed), _handed_out(part, arrays)), count)

        return Prepared(run, in_parts=False)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs of the model."""
        return self._inputs

    def _checked(self, feed: Feed, number: int) -> Feed:
        feed = checked_feed(feed, self._inputs, f"sample {number}")
        _refuse_empty(feed, number)
        return feed

    def _raw(self, feed: Feed, number: int) -> Iterator[tuple[str, Array]]:
        yield from self._fed(feed)
        for part in self._partition(feed, number):
            yield from _handed_out(part, self._run(self._session(part), feed, list(part), number))

    def _fed(self, feed: Feed) -> Iterator[tuple[str, Array]]:
        return ((name, np.asarray(feed[name])) for name in self._given)

    def _partition(self, feed: Feed, number: int) -> list[tuple[str, ...]]:
        """The names in parts whose values are small enough to be handed out together."""
        shapes = {name: np.shape(value) for name, value in feed.items() if np.ndim(value)}
        if self._parts and all(self._covers(name, shape) for name, shape in shapes.items()):
            return self._parts
        sizes = self._sizes(feed, number)
        self._parts = _packed(sizes, self._budget)
        self._largest = shapes
        self._sessions = {part: s for part, s in self._sessions.items() if part in self._parts}
        return self._parts

    def _covers(self, name: str, shape: tuple[int, ...]) -> bool:
        largest = self._largest.get(name)
        return (
            largest is not None
            and len(largest) == len(shape)
            and all(size <= limit for size, limit in zip(shape, largest, strict=True))
        )

    def _sizes(self, feed: Feed, number: int) -> dict[str, int]:
        """Bytes of each value for this feed, from known shapes or else from a run that counts."""
        dims = _bound_dims(self._inputs, feed)
        known = {name: _most_elements(self._values.get(name), dims) for name in self._made}
        open_names = [name for name, size in known.items() if size is None]
        if open_names:
            if self._sizing is None:
                self._sizing = Session.open(
                    _with_sizes(self._model, open_names), optimize=True, threads=self._threads
                )
            wanted = [_SIZE + name for name in open_names]
            counted = self._run(self._sizing, feed, wanted, number)
            known |= {n: int(count) for n, count in zip(open_names, counted, strict=True)}
        return {name: 4 * (known[name] or 0) for name in self._made}

    def _session(self, part: tuple[str, ...]) -> Session:
        if part not in self._sessions:
            # Several sessions share the weights as long as none packs its own copy of them.
            alone = len(self._parts) > 1
            self._sessions[part] = Session.open(
                with_outputs(self._model, part),
                optimize=True,
                threads=self._threads if alone else threads_each(self._threads, self._at_once),
                config=_SHARING if alone else ASLEEP,
            )
        return self._sessions[part]

    def _run(self, session: Session, feed: Feed, names: list[str], number: int) -> list[Any]:
        try:
            return session.run_shared(feed, names)
        except RuntimeFailed as error:
            raise RuntimeFailed(
                f"sample {number}: {error.message}", hint="check its sizes against the model"
            ) from error


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model that also gives out values of its main graph, as float32 tensors."""
    # Inferred shapes of what a Loop carries are those of its first round.
    copy = declared_copy(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        value = values[name]
        if not value.is_graph_output():
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None
            copy.graph.outputs.append(value)
    return copy


def _with_sizes(model: ir.Model, names: Iterable[str]) -> ir.Model:
    copy = declared_copy(model)
    copy.graph.opset_imports.setdefault("", 13)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        node = ir.Node("", "Size", [values[name]], name=_SIZE + name)
        size = node.outputs[0]
        size.name, size.type = _SIZE + name, ir.TensorType(ir.DataType.INT64)
        copy.graph.append(node)
        copy.graph.outputs.append(size)
    return copy


def _varying(model: ir.Model) -> list[ir.Value]:
    """The values of the main graph that differ from run to run, in graph order."""
    required = {spec.name for spec in inputs_of(model) if spec.required}
    varying = {value: None for value in model.graph.inputs if value.name in required}
    for node in model.graph:
        inner = (inside for graph in ops.subgraphs(node) for inside in graph.all_nodes())
        read = [*node.inputs, *(value for each in inner for value in each.inputs)]
        given = [value for graph in ops.subgraphs(node) for value in graph.outputs]
        if node.op_type in ops.RANDOM or any(value in varying for value in (*read, *given)):
            varying |= {value: None for value in node.outputs if value.name}
    return list(varying)


def _is_float32(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype is ir.DataType.FLOAT


def _other_precision(values: Iterable[ir.Value]) -> str:
    others = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return next((value.dtype.name.lower() for value in values if value.dtype in others), "")


def _inside_bodies(model: ir.Model) -> tuple[str, ...]:
    inner = {
        value
        for graph in model.graph.subgraphs()
        for node in graph
        for value in node.outputs
        if _is_float32(value) and not ops.is_constant(value)
    }
    if not inner:
        return ()
    return (f"{len(inner)} values inside the bodies of If, Loop or Scan are not observed",)


def _packed(sizes: Mapping[str, int], budget: int) -> list[tuple[str, ...]]:
    parts: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not parts or size > room:
            parts.append([])
            room = budget
        parts[-1].append(name)
        room -= size
    return [tuple(part) for part in parts]


def _bound_dims(inputs: Iterable[InputSpec], feed: Feed) -> dict[str, int]:
    """The size that each named dim of the inputs has in this feed."""
    bound: dict[str, int] = {}
    for spec in inputs:
        sizes = np.shape(feed[spec.name]) if spec.kind == "tensor" and spec.name in feed else ()
        for dim, size in zip(spec.shape or (), sizes, strict=False):
            if isinstance(dim, str):
                bound[dim] = max(size, bound.get(dim, 0))
    return bound


def _elements(value: ir.Value | None, dims: Mapping[str, int]) -> int | None:
    if value is None or value.shape is None:
        return None
    sizes = [dim if isinstance(dim, int) else dims.get(str(dim.value)) for dim in value.shape]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _most_elements(value: ir.Value | None, dims: Mapping[str, int]) -> int | None:
    """The elements of a value, or of one that it is broadcast into; None where neither is known."""
    found = _elements(value, dims)
    if found is not None or value is None:
        return found
    readers = (node for node in value.consumers() if ops.is_standard(node, *_BROADCASTING))
    bounds = (_elements(node.outputs[0], dims) for node in readers)
    return min((bound for bound in bounds if bound is not None), default=None)


def _refuse_empty(feed: Feed, number: int) -> None:
    arrays = [value for value in feed.values() if isinstance(value, np.ndarray)]
    if arrays and all(array.size == 0 for array in arrays):
        raise BadInput(
            f"sample {number} is empty: its arrays have no elements",
            hint="leave empty batches out of the data",
        )


def refuse_not_finite(name: str, array: Array, number: int) -> None:
    """Raise BadInput if an array holds NaN or an infinity."""
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        what = "NaN" if np.isnan(array).any() else "an infinity"
        raise BadInput(
            f"the value {name!r} holds {what} in sample {number}",
            hint="look at the sample; if the model means it so (a mask), leave the value out",
        )


def _handed_out(names: Sequence[str], arrays: list[Any]) -> Iterator[tuple[str, Array]]:
    """Each name with its array, which is not kept when the next one is asked for."""
    arrays.reverse()
    for name in names:
        yield name, np.asarray(arrays.pop())


def _all_as_rows(values: Iterable[tuple[str, Array]], count: int) -> Iterator[tuple[str, Array]]:
    for name, array in values:
        yield name, _as_rows(array, count)
        del array


def _as_rows(array: Array, count: int) -> Array:
    """The part of each sample as a row; what does not grow with them belongs to all."""
    if count == 1 or (array.ndim and len(array) and len(array) % count == 0):
        return array.reshape(count, -1)
    return np.broadcast_to(array.reshape(1, -1), (count, array.size))
