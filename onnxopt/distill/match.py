"""Which value of the student follows which value of the teacher, and with what loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.check.inputs import Feed, InputSpec, inputs_of, listing
from onnxopt.distill.kernels import Untaught
from onnxopt.distill.losses import Kind, Pair, Scale
from onnxopt.distill.module import missing_kernels
from onnxopt.distill.settings import AUTO, Settings
from onnxopt.distill.teacher import with_outputs
from onnxopt.errors import BadInput
from onnxopt.runtime.sessions import Session

Array = np.ndarray[Any, np.dtype[Any]]

_LAYERS = frozenset({"Add", "Conv", "ConvTranspose", "Gemm", "LayerNormalization", "MatMul"})
_LAYERS_AFTER = frozenset({"BatchNormalization", "Clip", "HardSwish", "Relu", "Sigmoid"})
_VIEWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze"})
_SCALES: Mapping[str, Scale] = {"Softmax": "probabilities", "LogSoftmax": "logarithms"}
_ALIKE = 0.5
"""The mean squared difference over the variance, up to which values of one name are the same."""
MOST_INNER = 8
"""Inner values that are matched at most where it is done automatically."""


@dataclass(frozen=True, slots=True)
class Match:
    """The pairs, the name that each teacher's input has in feeds, and what is worth telling."""

    pairs: tuple[Pair, ...]
    inputs: Mapping[str, str]
    notes: tuple[str, ...]


def match(teacher: ir.Model, student: ir.Model, settings: Settings, feed: Feed) -> Match:
    """Pair outputs by name, or else in their order, and inner values as the settings say.

    `feed` is one sample, on which both models are run to compare shapes.

    Raises:
        BadInput: Inputs or outputs of the two do not fit each other; a name is not there.
        Untaught: All outputs of the student need operators without a kernel.
        RuntimeFailed: A model does not run.
    """
    inputs = match_inputs(inputs_of(teacher), inputs_of(student))
    automatic = isinstance(settings.match, str)
    named = [] if isinstance(settings.match, str) else list(settings.match)
    theirs = _Values(teacher, {own: feed[k] for own, k in inputs.items() if k in feed}, named, 0)
    ours = _Values(student, feed, named, 1)
    if automatic:
        theirs.run_layers()
        ours.run_layers()
    found, notes = _outputs(theirs, ours)
    pairs = [_pair(theirs, ours, left, right, settings, len(found)) for left, right in found]
    inner = _inner(theirs, ours, settings.match == AUTO) if automatic else named
    for left, right in inner:
        theirs.require_shape(left, ours, right)
        pairs.append(Pair(left, right, "mse", inner=True))
    if automatic and inner:
        notes.append(f"{len(inner)} inner values were matched")
    return Match(tuple(pairs), inputs, tuple(notes))


def match_inputs(theirs: Sequence[InputSpec], ours: Sequence[InputSpec]) -> dict[str, str]:
    """For each of the teacher's inputs the student's: by name, or else in their order.

    Raises BadInput where they do not fit.
    """
    left, right = ([spec for spec in specs if spec.required] for specs in (theirs, ours))
    if {spec.name for spec in left} == {spec.name for spec in right}:
        by_name = {spec.name: spec for spec in right}
        pairs = [(spec, by_name[spec.name]) for spec in left]
    else:
        pairs = list(zip(left, right, strict=False))
    if len(left) != len(right) or not all(_fit(*pair) for pair in pairs):
        raise BadInput(
            f"the teacher takes {listing(left)} and the student {listing(right)}",
            hint="teacher and student must take the same inputs",
        )
    return {theirs.name: ours.name for theirs, ours in pairs}


def _fit(left: InputSpec, right: InputSpec) -> bool:
    if left.dtype != right.dtype or left.kind != right.kind:
        return False
    if left.shape is None or right.shape is None:
        return True
    return len(left.shape) == len(right.shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(left.shape, right.shape, strict=True)
    )


class _Values:
    """A model's values on one sample."""

    def __init__(
        self, model: ir.Model, feed: Feed, named: Iterable[tuple[str, str]], side: int
    ) -> None:
        self.model = model
        self.role = ("teacher", "student")[side]
        self.outputs = [value.name or "" for value in model.graph.outputs]
        self._feed = feed
        self.arrays: dict[str, Any] = {}
        self.run([*self.outputs, *(pair[side] for pair in named)])

    def run(self, names: Sequence[str]) -> None:
        """Find out what these values are on the sample."""
        wanted = list(dict.fromkeys(names))
        self._require(wanted)
        session = Session.open(with_outputs(self.model, wanted), optimize=False, threads=1)
        self.arrays.update(zip(wanted, session.run(self._feed), strict=True))

    def run_layers(self) -> None:
        """Find out what the values behind layers are."""
        names = [
            value.name
            for node in self.model.graph
            if node.op_type in _LAYERS | _LAYERS_AFTER
            for value in node.outputs[:1]
            if value.name and value.name not in self.outputs
        ]
        if names:
            self.run(names)

    def _require(self, names: Iterable[str]) -> None:
        known = {value.name for node in self.model.graph for value in node.outputs}
        known |= {value.name for value in self.model.graph.inputs} | set(self.outputs)
        for name in names:
            if name not in known:
                raise BadInput(
                    f"the {self.role} has no value {name!r}",
                    hint=f"its outputs: {', '.join(self.outputs)}; inner values go by the names"
                    " that `onnxopt inspect` and other viewers show",
                )

    def is_float(self, name: str) -> bool:
        array = self.arrays[name]
        return isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim > 0

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(np.shape(self.arrays[name]))

    def require_shape(self, name: str, student: _Values, other: str) -> None:
        left, right = self.shape(name), student.shape(other)
        if left != right:
            raise BadInput(
                f"the teacher's {name!r} is {list(left)} and the student's {other!r}"
                f" {list(right)} for one sample",
                hint="match values of one shape",
            )

    def layers(self) -> list[str]:
        """Float values behind layers, in the graph's order."""
        return [
            name
            for name in self.arrays
            if name not in self.outputs and self.is_float(name) and len(self.shape(name)) > 1
        ]


def _outputs(theirs: _Values, ours: _Values) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of float outputs that the student can be trained through."""
    left = [name for name in theirs.outputs if theirs.is_float(name)]
    right = [name for name in ours.outputs if ours.is_float(name)]
    shared = [name for name in right if name in left]
    if not shared and len(left) != len(right):
        raise BadInput(
            f"the teacher gives {', '.join(left) or 'no floats'} and the student"
            f" {', '.join(right) or 'no floats'}",
            hint="rename the outputs so that those which belong together have one name",
        )
    pairs = [(name, name) for name in shared] or list(zip(left, right, strict=True))
    for teacher_name, student_name in pairs:
        a, b = theirs.shape(teacher_name), ours.shape(student_name)
        if a != b:
            raise BadInput(
                f"the teacher's output {teacher_name!r} is {list(a)} for one sample and the"
                f" student's {student_name!r} {list(b)}",
                hint="teacher and student must answer the same question, with the same classes",
            )
    if not pairs:
        raise BadInput(
            "neither model has an output of floats", hint="take models that give scores or numbers"
        )
    return _trainable(ours.model, pairs)


def _trainable(
    student: ir.Model, pairs: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[str]]:
    missing = {name: missing_kernels(student, [name]) for _, name in pairs}
    kept = [pair for pair in pairs if not missing[pair[1]]]
    notes = [
        f"the output {name!r} is not taught: no torch kernel for {', '.join(sorted(found))}"
        for name, found in missing.items()
        if found
    ]
    if not kept:
        absent = sorted({operator for found in missing.values() for operator in found})
        raise Untaught(
            f"the student can't be trained: no torch kernel for {', '.join(absent)}",
            hint="optimize the student first, which folds and fuses many operators away",
        )
    return kept, notes


def _pair(
    theirs: _Values, ours: _Values, left: str, right: str, settings: Settings, count: int
) -> Pair:
    scales = [_scale(theirs.model, left), _scale(ours.model, right)]
    rank = len(ours.shape(right))
    axis = next((axis for _, axis in scales if axis is not None), 1 if rank == 4 else -1)
    kind: Kind
    if settings.loss in ("kl", "mse", "cosine"):
        kind = settings.loss  # type: ignore[assignment]
    else:
        # Scores of classes: a softmax says so, or else a single row of numbers a sample.
        row = count == 1 and rank == 2
        classes = ours.shape(right)[axis] > 1
        kind = "kl" if classes and (row or any(axis is not None for _, axis in scales)) else "mse"
    return Pair(left, right, kind, axis, scales[0][0], scales[1][0])


def _scale(model: ir.Model, output: str) -> tuple[Scale, int | None]:
    """What a softmax before an output makes of it, and its axis."""
    value = next((each for each in model.graph.outputs if each.name == output), None)
    node = None if value is None else value.producer()
    viewed = False
    while node is not None and node.op_type in _VIEWS and node.inputs[0] is not None:
        viewed = viewed or node.op_type not in ("Cast", "Identity")
        node = node.inputs[0].producer()
    if node is None or node.op_type not in _SCALES:
        return "scores", None
    default = -1 if model.graph.opset_imports.get("", 13) >= 13 else 1
    axis = node.attributes.get_int("axis", default)
    return _SCALES[node.op_type], -1 if viewed else axis


def _inner(theirs: _Values, ours: _Values, shape_only: bool) -> list[tuple[str, str]]:
    """Inner values of one name that are nearly the same in both, as in a pruned copy.

    With `shape_only` those of one name and shape, or else the last ones of each shape that both
    have. Only a few, spread evenly over the depth of the student.
    """
    left, right = theirs.layers(), ours.layers()
    known = set(left)
    pairs = [
        (name, name)
        for name in right
        if name in known
        and theirs.shape(name) == ours.shape(name)
        and (shape_only or _alike(theirs.arrays[name], ours.arrays[name]))
    ]
    if len(pairs) < 2 and shape_only:
        last = {theirs.shape(name): name for name in left}
        own = {ours.shape(name): name for name in right}
        pairs = [(last[shape], name) for shape, name in own.items() if shape in last]
    if len(pairs) > MOST_INNER:
        places = np.linspace(0, len(pairs) - 1, MOST_INNER).round().astype(int)
        pairs = [pairs[place] for place in places]
    return pairs


def _alike(left: Array, right: Array) -> bool:
    """Whether most of what one array holds is in the other."""
    return float(np.square(left - right).mean()) <= _ALIKE * float(left.var())
