"""How much a model's outputs move by themselves when its numbers move by a rounding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.check.compare import Array, Measure, is_float
from onnxopt.check.inputs import Feed
from onnxopt.errors import RuntimeFailed
from onnxopt.runtime.sessions import Session

SHAKE_BYTES = 256 << 20
_SHAKES = 3
# Relative noise of a few units in the last place, by the coarsest float type that is computed in.
_INPUT_NOISE: Mapping[Any, float] = {
    np.dtype(np.float64): 2e-15,
    np.dtype(np.float32): 1e-6,
    np.dtype(np.float16): 1e-3,
    np.dtype(ml_dtypes.bfloat16): 8e-3,
}
_WEIGHT_SHARE = 0.125
# A difference is explained while it stays within this many times what the noise does.
_SLACK = 2.0


class Shaker:
    """Runs a model with inputs and weights moved by a rounding.

    Weights are left alone in models over `SHAKE_BYTES`, whose copies would not fit in memory.
    """

    def __init__(
        self, model: ir.Model, session: Session, open_session: Callable[[ir.Model], Session]
    ) -> None:
        self._model = model
        self._session = session
        self._open = open_session

    def outputs(self, feed: Feed) -> list[list[Any]]:
        """The outputs of several shaken runs of one feed; those that fail are left out."""
        noise = input_noise(self._model)
        found = []
        for seed, session in enumerate(self._sessions):
            try:
                found.append(session.run(shaken_feed(feed, noise, seed)))
            except RuntimeFailed:
                continue
        return found

    @functools.cached_property
    def _sessions(self) -> list[Session]:
        if io.model_bytes(self._model) > SHAKE_BYTES:
            return [self._session] * _SHAKES
        noise = input_noise(self._model)
        return [self._open(shaken_model(self._model, noise, seed)) for seed in range(_SHAKES)]


def input_noise(model: ir.Model) -> float:
    """The relative size of a rounding in the coarsest float type the model computes in."""
    return max((_INPUT_NOISE.get(dtype, 0.0) for dtype in _float_types(model)), default=1e-6)


def shaken_feed(feed: Feed, noise: float, seed: int) -> Feed:
    """The feed with every float moved by about `noise` of itself; whole numbers stay."""
    random = np.random.default_rng([seed, 1])
    return {name: _shaken_value(value, noise, random) for name, value in feed.items()}


def shaken_model(model: ir.Model, noise: float, seed: int) -> ir.Model:
    """A copy whose float weights moved by an eighth of `noise`; scalars and whole numbers stay."""
    random = np.random.default_rng([seed, 2])
    copy = model.clone()
    for graph in _graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is not None and _is_weight(value.const_value):
                value.const_value = _shaken_tensor(value.const_value, noise, random)
        for node in graph:
            attribute = node.attributes.get("value")
            if ops.is_standard(node, "Constant") and attribute is not None:
                _shake_constant(node, attribute, noise, random)
    return copy


def explains(moves: Sequence[Measure], difference: Measure) -> bool:
    """Whether the reference's own moves under noise are as large as the difference.

    Largest element, energy and the number of elements out of bounds must all be explained, so that
    an element that flips does not excuse the others.
    """
    if difference.alien or not moves:
        return False
    pairs = (
        (difference.max_abs, [move.max_abs for move in moves], 1.0),
        (difference.noise_energy, [move.noise_energy for move in moves], _SLACK),
        (difference.outside, [move.outside for move in moves], 1.0),
        (difference.mismatched, [move.mismatched for move in moves], 1.0),
        (difference.resized, [move.resized for move in moves], 1.0),
    )
    return all(value <= _SLACK * power * max(own) for value, own, power in pairs)


def _float_types(model: ir.Model) -> Iterator[np.dtype[Any]]:
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.size > 1:
                yield from _numpy_type(value.const_value.dtype)
        for node in graph:
            target = node.attributes.get("to")
            if ops.is_standard(node, "Cast") and target is not None and not target.is_ref():
                yield from _numpy_type(ir.DataType(target.as_int()))
    for value in model.graph.inputs:
        if value.dtype is not None:
            yield from _numpy_type(value.dtype)


def _numpy_type(dtype: ir.DataType) -> Iterator[np.dtype[Any]]:
    if dtype.is_floating_point():
        yield np.dtype(dtype.numpy())


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    for graph in model.graph.subgraphs():
        if isinstance(graph, ir.Graph):
            yield graph


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    return tensor.size > 1 and tensor.dtype.is_floating_point()


def _shake_constant(
    node: ir.Node, attribute: ir.Attr, noise: float, random: np.random.Generator
) -> None:
    if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return
    tensor = attribute.as_tensor()
    if _is_weight(tensor):
        shaken = _shaken_tensor(tensor, noise, random)
        node.attributes["value"] = ir.AttrTensor("value", shaken)
        node.outputs[0].const_value = None


def _shaken_tensor(
    tensor: ir.TensorProtocol, noise: float, random: np.random.Generator
) -> ir.TensorProtocol:
    array = _shaken(tensor.numpy(), noise * _WEIGHT_SHARE, random)
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def _shaken_value(value: Any, noise: float, random: np.random.Generator) -> Any:
    if isinstance(value, (list, tuple)):
        return [_shaken_value(item, noise, random) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O" and is_float(value.dtype):
        return _shaken(value, noise, random)
    return value


def _shaken(array: Array, noise: float, random: np.random.Generator) -> Array:
    if array.dtype.kind == "c":
        return array
    wide = array.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        # A whole number may be a count or a label in disguise, which a hair less would change.
        moved = wide * (1.0 + noise * random.standard_normal(wide.shape))
        return np.where(wide == np.round(wide), array, moved.astype(array.dtype))
