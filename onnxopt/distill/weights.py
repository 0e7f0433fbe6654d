"""Which constants of a graph are trained, as what, and how they go back where they came from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxopt import ops
from onnxopt.distill.kernels import Call, Tensor, from_numpy
from onnxopt.distill.kernels_quantized import BOUNDS, along, rounded

Array = np.ndarray[Any, np.dtype[Any]]

_POSITIONS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
    "SkipLayerNormalization": (2, 3, 4),
}
"""The inputs that hold weights."""
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Sub"})
_MOVES = frozenset(
    {
        "Cast",
        "CastLike",
        "Concat",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Identity",
        "Pad",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""What may stand between a constant and the operator whose weight it is."""
_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)


@dataclass(frozen=True, slots=True)
class Coding:
    """How the codes of a quantized weight become numbers: scale, zero point, axis, and bounds."""

    scale: Tensor
    zero_point: Tensor | None
    call: Call
    bounds: tuple[int, int]

    def decode(self, codes: Tensor) -> Tensor:
        """The numbers that codes stand for, in float32."""
        return (codes.to(self.scale.dtype) - self._zero(codes)) * along(
            self.call, codes, self.scale
        )

    def encode(self, numbers: Tensor) -> Tensor:
        """The nearest codes, as floats, with a gradient straight through the rounding."""
        scaled = numbers / along(self.call, numbers, self.scale)
        return torch.clamp(rounded(scaled) + self._zero(numbers), *self.bounds)

    def _zero(self, like: Tensor) -> Tensor:
        if self.zero_point is None:
            return torch.zeros((), dtype=self.scale.dtype, device=like.device)
        return along(self.call, like, self.zero_point).to(self.scale.dtype)


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant that is trained: `start` as floats; `coding` where the model keeps codes of it."""

    value: ir.Value
    name: str
    start: Tensor
    coding: Coding | None = None


def tensor_of(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer, overridable or not, or of a Constant node."""
    if value.producer() is None and value.is_initializer():
        return value.const_value
    return ops.constant(value)


def find_weights(nodes: Iterable[ir.Node], frozen: Collection[str] = ()) -> list[Weight]:
    """The constants that the nodes use as weights, each once, in the order of their use.

    Weights of products, normalizations, recurrent layers and embeddings, and what is added or
    multiplied along one axis, such as a bias. Scales, zero points, statistics of normalizations
    and lone numbers stay as they are.
    """
    found: dict[ir.Value, Weight] = {}
    for node in nodes:
        for value, direct in _roots(node):
            if value in found or value.name in frozen:
                continue
            weight = _weight(value, direct)
            if weight is not None:
                found[value] = weight
    return list(found.values())


def _roots(node: ir.Node) -> Iterator[tuple[ir.Value, bool]]:
    """The constants behind the weight inputs of a node, and whether nothing stands between."""
    if node.op_type in _ELEMENTWISE and ops.is_standard(node):
        for value in node.inputs:
            if value is not None and _is_row(value):
                yield from ((root, False) for root in _behind(value))
        return
    for position in _POSITIONS.get(node.op_type, ()):
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is not None:
            yield from ((root, root is value) for root in _behind(value))


def _behind(value: ir.Value) -> Iterator[ir.Value]:
    if tensor_of(value) is not None:
        yield value
        return
    producer = value.producer()
    if producer is None or producer.op_type not in _MOVES:
        return
    data = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    for source in data:
        if source is not None:
            yield from _behind(source)


def _is_row(value: ir.Value) -> bool:
    """Whether the only constant behind an operand of Add or Mul has one axis that is not 1."""
    roots = list(_behind(value))
    shapes = [tensor.shape.numpy() for root in roots if (tensor := tensor_of(root)) is not None]
    return len(shapes) == 1 and sum(size > 1 for size in shapes[0]) == 1


def _weight(value: ir.Value, direct: bool) -> Weight | None:
    tensor = tensor_of(value)
    assert tensor is not None
    if not tensor.size or (tensor.size == 1 and not direct):
        return None
    name = value.name or ""
    if tensor.dtype in _FLOATS:
        return Weight(value, name, from_numpy(tensor.numpy()))
    coding = _coding(value, tensor.dtype)
    if coding is None:
        return None
    return Weight(value, name, coding.decode(from_numpy(tensor.numpy())), coding)


def _coding(value: ir.Value, kind: ir.DataType) -> Coding | None:
    """The coding of a constant that is read by DequantizeLinear alone, in one way."""
    uses = [use.node for use in value.uses()]
    if kind not in BOUNDS or any(node.op_type != "DequantizeLinear" for node in uses):
        return None
    if len({tuple(node.inputs[1:]) for node in uses}) != 1:
        return None
    node = uses[0]
    parts = [None if part is None else tensor_of(part) for part in node.inputs[1:]]
    if not parts or parts[0] is None or (len(parts) > 1 and parts[1] is None and node.inputs[2]):
        return None
    call = Call(
        node.name or "", node.op_type, 13, {n: a.value for n, a in node.attributes.items()}, 1
    )
    zero = parts[1] if len(parts) > 1 else None
    return Coding(
        from_numpy(parts[0].numpy()),
        None if zero is None else from_numpy(zero.numpy()),
        call,
        BOUNDS[kind],
    )


def put_back(model: ir.Model, found: Iterable[tuple[str, Array]]) -> None:
    """Put new numbers in the place of constants of these names, in their own types and shapes.

    Codes come as whole numbers. Initializers stay initializers and Constant nodes Constant nodes.
    """
    arrays = dict(found)
    for value in _constants(model):
        array = arrays.get(value.name or "")
        old = None if array is None else tensor_of(value)
        if array is None or old is None:
            continue
        new = ir.tensor(
            array.reshape(old.shape.numpy()).astype(old.dtype.numpy()),
            dtype=old.dtype,
            name=old.name,
            doc_string=old.doc_string,
        )
        ops.store_constant(value, new)


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.initializers.values()
        yield from (node.outputs[0] for node in graph if node.op_type == "Constant")
