"""The nodes that sum over channels, as matrices that can be read, fitted and written back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.prune.records import Group, Removal
from onnxopt.quantize.patches import Vectors, Window, vectors_of
from onnxopt.rewrite.forms import bounds
from onnxopt.rewrite.hit import NodeView, Unmatched

Array = np.ndarray[Any, np.dtype[Any]]

LONGEST = 6144
"""Vectors longer than this are not fitted: their moments would take 300 MB and minutes."""


@dataclass(frozen=True, slots=True)
class Product:
    """A Conv, Gemm or MatMul that sums over the channels of groups, with its own constant weight.

    `source` is the value it reads and `output` the one that it writes, behind the bias, if any;
    `bias` says which input of which node that is. `columns` has for each group the columns of a row
    of `Weights.rows` that each channel has.
    """

    node: str
    source: str
    output: str
    vectors: Vectors
    bias: tuple[str, int] | None
    columns: Mapping[str, tuple[tuple[int, ...], ...]]

    def gone(self, removal: Removal) -> Array:
        """The columns that fall with the channels in `removal`, in ascending order."""
        found = {
            column
            for group, channels in self.columns.items()
            for channel in removal.get(group, ())
            for column in self.columns[group][channel]
        }
        return np.array(sorted(found), np.int64)


def products(model: ir.Model, groups: Iterable[Group]) -> dict[str, Product]:
    """The readers of all groups that can be fitted anew, by node name, in graph order.

    Left out are those whose weight is shared, computed or scaled, and those of very long vectors.
    """
    nodes = {_name(node): node for node in model.graph}
    columns: dict[str, dict[str, tuple[tuple[int, ...], ...]]] = {}
    for group in groups:
        for reader in group.readers:
            node = nodes.get(reader.node)
            if node is not None:
                at = _columns(node, reader.weight.positions)
                columns.setdefault(reader.node, {})[group.name] = at
    found = ((name, _product(nodes[name], columns[name])) for name in nodes if name in columns)
    return {name: product for name, product in found if product is not None}


def all_products(model: ir.Model, known: Mapping[str, Product]) -> list[Product]:
    """All products of a pruned model that can be fitted anew, in graph order.

    Those in `known`, of the model before it was pruned, keep their columns. The others sum over no
    channel that could have gone, such as depthwise convolutions.
    """
    result = []
    for node in model.graph:
        before = known.get(_name(node))
        product = _product(node, {} if before is None else before.columns)
        if product is not None:
            result.append(product)
    return result


def _product(node: ir.Node, columns: Mapping[str, tuple[tuple[int, ...], ...]]) -> Product | None:
    looked = vectors_of(node)
    if isinstance(looked, str) or not node.outputs[0].name:
        return None
    source, vectors = looked
    weight = node.inputs[1 if node.inputs[0] is source else 0]
    view = NodeView(node)
    if weight is None or weight.dtype != ir.DataType.FLOAT or len(list(weight.uses())) != 1:
        return None
    if view.attr("alpha", 1.0) != 1.0 or view.attr("beta", 1.0) != 1.0 or not source.name:
        return None
    if _rows(node, _array(weight)).shape[2] > LONGEST:
        return None
    holder, slot = _bias(node)
    output = (node if slot is None else holder).outputs[0].name or ""
    bias = None if slot is None else (_name(holder), slot)
    return Product(_name(node), source.name, output, vectors, bias, columns)


_HOLDING_ROWS = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DequantizeLinear",
        "Gemm",
        "InstanceNormalization",
        "Mul",
        "QuantizeLinear",
    }
)
"""They read a number for each channel: a bias, a scale, a zero point."""

_SEPARATED = frozenset({ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT32, ir.DataType.UINT8})


def separate(model: ir.Model) -> None:
    """Give each node that reads a constant row with others one of its own, in place.

    Optimizers merge equal biases; once channels go they are no longer equal.
    """
    for node in model.graph:
        if node.op_type not in _HOLDING_ROWS:
            continue
        for index, value in enumerate(node.inputs):
            tensor = ops.constant(value)
            if value is None or tensor is None or len(list(value.uses())) < 2:
                continue
            if len(tensor.shape) == 1 and tensor.dtype in _SEPARATED and tensor.size > 1:
                _store(node, index, tensor.numpy())


class Weights:
    """The matrices and biases of the products of one model, which they are written back to."""

    def __init__(self, model: ir.Model) -> None:
        self._nodes = {_name(node): node for node in model.graph}

    def rows(self, product: Product) -> Array:
        """The weight, float64 [groups, outputs / groups, columns]."""
        node = self._nodes[product.node]
        return _rows(node, _array(node.inputs[_weight_index(node)])).astype(np.float64)

    def bias(self, product: Product) -> Array | None:
        """The bias, float64 [outputs]; None where there is none."""
        if product.bias is None:
            return None
        holder, slot = product.bias
        outputs = int(np.prod(self.rows(product).shape[:2]))
        array = _array(self._nodes[holder].inputs[slot]).astype(np.float64).reshape(-1)
        return np.broadcast_to(array, outputs)

    def put(self, product: Product, rows: Array, bias: Array | None) -> None:
        """Write a weight in the form of `rows` and a bias back, as float32."""
        node = self._nodes[product.node]
        index = _weight_index(node)
        shape = _array(node.inputs[index]).shape
        stored = rows.reshape(-1, rows.shape[2])
        stored = stored.T if _is_turned(node) else stored
        _store(node, index, stored.reshape(shape))
        if bias is not None and product.bias is not None:
            holder, slot = self._nodes[product.bias[0]], product.bias[1]
            old = _array(holder.inputs[slot])
            wide = bias.reshape(old.shape) if old.size == bias.size else bias
            _store(holder, slot, wide)


def targets(product: Product, model: ir.Model) -> tuple[str, str]:
    """Which value a product should reproduce, and what is added to it on the way.

    Behind a residual Add that is the sum, so that errors of the other operand are made up for;
    the second name is empty where the product's own output is the target.
    """
    order = {
        value.name: number for number, node in enumerate(model.graph) for value in node.outputs
    }
    made = next((v for node in model.graph for v in node.outputs if v.name == product.output), None)
    uses = [] if made is None else list(made.uses())
    if made is None or len(uses) != 1 or not ops.is_standard(uses[0].node, "Add"):
        return product.output, ""
    node = uses[0].node
    other = node.inputs[1 - uses[0].idx]
    if other is None or ops.is_constant(other) or not _same_shape(made, other):
        return product.output, ""
    if order.get(other.name, -1) > order[product.output]:
        return product.output, ""
    return node.outputs[0].name or product.output, other.name or ""


def limits(name: str, model: ir.Model) -> tuple[float, float]:
    """Between which numbers a value counts: those beyond are cut off by the one node that reads it.

    That is a Relu or a Clip; otherwise the limits are infinite.
    """
    value = next((v for node in model.graph for v in node.outputs if v.name == name), None)
    uses = [] if value is None or value.is_graph_output() else list(value.uses())
    low: float | None = None
    high: float | None = None
    if len(uses) == 1 and ops.is_standard(uses[0].node, "Relu"):
        low = 0.0
    elif len(uses) == 1 and ops.is_standard(uses[0].node, "Clip"):
        with contextlib.suppress(Unmatched):
            low, high = bounds(NodeView(uses[0].node))
    return float("-inf") if low is None else low, float("inf") if high is None else high


def outputs_like(product: Product, array: Array, chosen: Array) -> Array:
    """The rows of an output that belong to the chosen vectors: [rows, outputs]."""
    if isinstance(product.vectors, Window):
        moved = np.moveaxis(array, 1, -1)
    else:
        moved = product.vectors.turned(array)
    return moved.reshape(-1, moved.shape[-1])[chosen]


def _same_shape(one: ir.Value, other: ir.Value) -> bool:
    return one.shape is not None and other.shape is not None and one.shape == other.shape


def _columns(node: ir.Node, positions: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The columns of each channel: a Conv has as many for each input as its kernel has elements."""
    weight = ops.constant(node.inputs[_weight_index(node)])
    window = 1
    if weight is not None and node.op_type == "Conv":
        window = int(np.prod(weight.shape.numpy()[2:]))
    return tuple(
        tuple(window * at + offset for at in each for offset in range(window)) for each in positions
    )


def _weight_index(node: ir.Node) -> int:
    return 0 if node.op_type == "MatMul" and ops.is_constant(node.inputs[0]) else 1


def _is_turned(node: ir.Node) -> bool:
    """Whether the weight is stored with a column for each output."""
    if node.op_type == "Gemm":
        return not NodeView(node).attr("transB", 0)
    return node.op_type == "MatMul" and _weight_index(node) == 1


def _rows(node: ir.Node, weight: Array) -> Array:
    if node.op_type == "Conv":
        count = int(NodeView(node).attr("group", 1))
        return weight.reshape(count, weight.shape[0] // count, -1)
    return (weight.T if _is_turned(node) else weight)[None]


def _bias(node: ir.Node) -> tuple[ir.Node, int | None]:
    """The node that adds the bias and which of its inputs that is, None where there is none."""
    if node.op_type != "MatMul":
        given = node.inputs[2] if len(node.inputs) > 2 else None
        fits = given is not None and ops.constant(given) is not None
        return node, 2 if fits and len(ops.constant(given).shape) == 1 else None  # type: ignore[union-attr]
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not ops.is_standard(uses[0].node, "Add") or _weight_index(node) == 0:
        return node, None
    slot = 1 - uses[0].idx
    row = ops.constant(uses[0].node.inputs[slot])
    weight = ops.constant(node.inputs[1])
    fits = row is not None and weight is not None and row.size == weight.shape.numpy()[-1]
    return (uses[0].node, slot) if fits else (node, None)


def _array(value: ir.Value | None) -> Array:
    tensor = ops.constant(value)
    assert tensor is not None, "products have constant weights"
    return np.asarray(tensor.numpy())


def _store(node: ir.Node, index: int, array: Array) -> None:
    """Give a node another constant, under the old name where no other node reads the old one."""
    old = node.inputs[index]
    assert old is not None and isinstance(node.graph, ir.Graph)
    alone = len(list(old.uses())) == 1 and not old.is_graph_output()
    name = str(old.name) if alone else _free(node.graph, f"{old.name}_{_name(node)}")
    kind = array.dtype if array.dtype.kind in "iu" else np.dtype(np.float32)
    tensor = ir.tensor(np.ascontiguousarray(array, kind), name=name)
    if alone:
        ops.store_constant(old, tensor)
        return
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    node.graph.register_initializer(value)
    node.replace_input_with(index, value)


def _free(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in (*node.inputs, *node.outputs) if value}
    while name in taken or name in graph.initializers:
        name += "_fitted"
    return name


def _name(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), "") or ""
