"""Reshapes moved past what happens between them until they meet and vanish."""

from typing import Any

import numpy as np

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, ops
from onnxopt.rewrite.affine import Array, is_dequantized
from onnxopt.rewrite.dense import FLOATS
from onnxopt.rewrite.forms import normal_axes

_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_ELEMENTWISE = ops.ELEMENTWISE_UNARY | {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}


class MoveReshape(Rule):
    """Leave two reshapes out that undo each other around elementwise operators and products.

    What stands between may take constants that broadcast the same way in both shapes. Products
    with a matrix need the last axis in its place; a Gemm becomes a MatMul and an Add.
    Source: one-dimensional convolutions of tf2onnx, dense layers of GPT-2 and Keras.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Unsqueeze(Relu(Squeeze(x, [2])), [2])",
        "y = Relu(x)",
    )

    def pattern(self, op, y: Value, how: Values):
        return op.one_of(*_RESHAPING)(y, how)

    def rewrite(self, op, hit):
        first, chain = _chain(hit)
        x, inner, out = first.input(0), first.output, hit.root.output
        products = [node for node in chain if node.is_op("Gemm", "MatMul")]
        if products:
            hit.match(_keeps_rows(x, inner) and _keeps_rows(out, hit.y))
            hit.match(None not in x.shape and x.shape[:-1] == out.shape[:-1])
        else:
            hit.match(x.same_shape(out))
        sums = [node for node in products if node.input(2) is not None]
        hit.match(len(sums) < 1 + inner.has_one_reader)
        new: Any = x
        for node in chain:
            new = _anew(op, hit, node, new, first)
        return new


def _chain(hit: Any) -> tuple[Any, list[Any]]:
    """The reshape further up, and what is between, first to last; each read by the next alone."""
    chain: list[Any] = []
    value = hit.y
    while value is not None and value.producer is not None:
        node = value.producer
        if node.is_op(*_RESHAPING):
            break
        hit.match(value.has_one_reader and node.node.graph is hit.root.node.graph)
        hit.match(node.is_op("Gemm", "MatMul", *_ELEMENTWISE))
        chain.insert(0, node)
        moving = [each for each in node.inputs if each is not None and not each.is_const]
        hit.match(len(moving) == 1)
        value = moving[0]
    hit.match(chain and value is not None and value.producer is not None)
    return value.producer, chain


def _keeps_rows(larger: Any, flat: Any) -> bool:
    """Whether one tensor has the rows of the other, and no more than their order is lost."""
    return bool(larger.rank and flat.rank == 2 and flat.dim(1) and larger.dim(-1) == flat.dim(1))


def _anew(op: Any, hit: Any, node: Any, new: Any, first: Any) -> Any:
    """The node on the tensor before the reshape."""
    moving = next(each for each in node.inputs if each is not None and not each.is_const)
    if node.is_op("Gemm", "MatMul"):
        return _product(op, hit, node, moving, new)
    inputs = [
        each if each is None else new if each == moving else _constant(op, hit, each, node, first)
        for each in node.inputs
    ]
    return op.node(node.op_type, inputs, like=node)


def _product(op: Any, hit: Any, node: Any, x: Any, new: Any) -> Any:
    weight, bias = node.input(1), node.input(2)
    plain = not any(node.attr(name) for name in ("transA", "transB")) and node.input(0) == x
    hit.match(plain and weight.rank == 2 and weight.dtype in FLOATS)
    hit.match(not is_dequantized(weight))
    if node.op_type == "MatMul":
        return op.MatMul(new, weight, like=node)
    hit.match(node.attr("alpha") == 1 and node.attr("beta") == 1)
    product = op.MatMul(new, weight, like=node)
    if bias is None:
        return product
    hit.match(_row(bias.array) is not None)
    return op.Add(product, op.const(_row(bias.array), like=bias))


def _row(array: Array) -> Array | None:
    """The array without leading ones, if it is a row or one number."""
    stripped = array.reshape(-1) if array.size == 1 else array
    while stripped.ndim > 1 and stripped.shape[0] == 1:
        stripped = stripped[0]
    return stripped if stripped.ndim <= 1 else None


def _constant(op: Any, hit: Any, constant: Any, node: Any, first: Any) -> Any:
    """The constant as it broadcasts to the tensor before the reshape."""
    x, inner = first.input(0), first.output
    array, rank = constant.array, inner.rank
    hit.match(rank is not None and x.rank is not None and array.ndim <= rank)
    row = _row(array)
    if row is not None and (row.size == 1 or (rank and x.rank and x.dim(-1) == inner.dim(-1))):
        return op.const(row.reshape(()) if row.size == 1 else row, like=constant)
    axes = first.axes() or [] if first.is_op("Squeeze", "Unsqueeze") else []
    hit.match(axes)
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if first.op_type == "Squeeze":
        return op.const(np.expand_dims(wide, tuple(normal_axes(axes, x.rank))), like=constant)
    places = tuple(normal_axes(axes, rank))
    hit.match(all(wide.shape[axis] == 1 for axis in places))
    return op.const(np.squeeze(wide, places), like=constant)
