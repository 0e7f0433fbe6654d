"""What a change does to a model's outputs: how far they move on samples that are kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxopt.check.inputs import Feed
from onnxopt.check.metric import choose
from onnxopt.check.softness import log_softmax, temperature
from onnxopt.errors import BadInput
from onnxopt.quantize.spool import Spool
from onnxopt.runtime.sessions import ASLEEP, Session

Array = np.ndarray[Any, np.dtype[Any]]

_SCALES = (1.0, *np.geomspace(0.5, 2.5, 33))


class Trials:
    """The outputs of a model on a few samples, and how far other models are from them."""

    def __init__(self, model: ir.Model, feeds: Sequence[Feed], *, threads: int = 0) -> None:
        self.feeds = feeds
        self.threads = threads
        self.names = [str(value.name) for value in model.graph.outputs]
        self._reference = Spool(self._outputs(model))
        if not all(map(_is_finite, self._reference)):
            raise BadInput(
                "the model's outputs hold NaN or infinities on the data",
                hint="look at the data, or at the model with `onnxopt validate`",
            )
        self._heat = _heat_of(self._reference)

    def divergence(self, model: ir.Model) -> float:
        """How far the outputs of `model` are from the reference's; infinite where they are NaN.

        For scores of classes the Kullback-Leibler divergence in nats a row, softened (see
        check.softness) and at the scale of the scores that suits best (a common scale changes no
        class); else noise over signal.
        """
        return self.distance(self._outputs(model))

    def distance(self, outputs: Iterable[Feed]) -> float:
        """The same for a model that was run already, from its outputs on each feed by name."""
        return divergence(self._reference, outputs, heat=self._heat)

    def _outputs(self, model: ir.Model) -> Iterator[dict[str, Array]]:
        session = Session.open(model, optimize=True, threads=self.threads, config=ASLEEP)
        for feed in self.feeds:
            values = zip(self.names, session.run(feed, self.names), strict=True)
            yield {n: v for n, v in values if getattr(v, "dtype", None) == np.float32}


def divergence(
    reference: Sequence[Mapping[str, Array]],
    candidate: Iterable[Mapping[str, Array]],
    *,
    heat: float | None = None,
) -> float:
    """See Trials.divergence; `reference` has the float outputs of each feed by name.

    `heat` is the temperature for its scores of classes where that is known already.
    """
    found = ({name: each[name] for name in reference[0]} for each in candidate)
    heat = heat or _heat_of(reference)
    if heat is not None:
        left, right = _scores(reference), _scores(found)
        finite = np.isfinite(right).all()
        return _divergence_of_scores(left, right, heat) if finite else float("inf")
    signal = dict.fromkeys(reference[0], 0.0)
    noise = dict.fromkeys(reference[0], 0.0)
    for wanted, given in zip(reference, found, strict=True):
        if not _is_finite(given):
            return float("inf")
        for name in wanted:
            signal[name] += float(np.square(wanted[name], dtype=np.float64).sum())
            missed = np.subtract(given[name], wanted[name])
            noise[name] += float(np.square(missed, dtype=np.float64).sum())
    shares = (
        noise[name] / signal[name] if signal[name] else float(noise[name] > 0) for name in signal
    )
    return max(shares, default=0.0)


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    return all(np.isfinite(array).all() for array in outputs.values())


def _heat_of(outputs: Sequence[Mapping[str, Array]]) -> float | None:
    """The temperature for scores of classes; None for other outputs."""
    return temperature(_scores(outputs)) if choose(outputs[0]) == "agreement" else None


def _scores(outputs: Iterable[Mapping[str, Array]]) -> Array:
    """Scores of classes of all samples, logarithms where they are probabilities."""
    found = np.concatenate([next(iter(each.values())) for each in outputs]).astype(np.float64)
    if (found >= 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-3):
        found = np.log(found.clip(1e-9))
    return found


def _divergence_of_scores(left: Array, right: Array, heat: float) -> float:
    left, right = left / heat, right / heat
    wanted = log_softmax(left)
    shares = np.exp(wanted)
    return min(
        float((shares * (wanted - log_softmax(scale * right))).sum(axis=1).mean())
        for scale in _SCALES
    )


class Tap:
    """Runs as much of a model as some of its values need, and hands them out."""

    def __init__(self, model: ir.Model, names: Iterable[str], *, threads: int = 0) -> None:
        self._names = tuple(dict.fromkeys(names))
        copy = model.clone()
        values = {value.name: value for node in copy.graph for value in node.outputs}
        values |= {value.name: value for value in copy.graph.inputs}
        self._given = [n for n in self._names if values[n].is_graph_input()]
        self._made = [n for n in self._names if n not in self._given]
        copy.graph.outputs.clear()
        for name in self._made:
            value = values[name]
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None
            copy.graph.outputs.append(value)
        common.RemoveUnusedNodesPass()(copy)
        self._session = None
        if self._made:
            self._session = Session.open(copy, optimize=True, threads=threads, config=ASLEEP)

    def run(self, feed: Feed) -> dict[str, Array]:
        """The values by name, for one feed."""
        found = {name: np.asarray(feed[name]) for name in self._given}
        if self._session is not None:
            known = {n: v for n, v in feed.items() if n in self._session.feedable}
            found |= zip(self._made, self._session.run(known, self._made), strict=True)
        for name, array in found.items():
            if not np.isfinite(array).all():
                raise BadInput(
                    f"the value {name!r} is NaN or infinite on a sample",
                    hint="look at the sample, or at the model with `onnxopt validate`",
                )
        return found
