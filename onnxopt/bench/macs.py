"""How many multiply-accumulate operations one run of a node takes, as a table by operator.

Only the operators that do nearly all the arithmetic of a network are here: convolutions, matrix
products, recurrent layers and attention, with their quantized and fused forms. A multiplication
by a scalar, a normalization or an activation counts as nothing, which is the usual convention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import onnx_ir as ir

Dims: TypeAlias = "tuple[int, ...]"
ShapeOf: TypeAlias = "Callable[[ir.Value | None], Dims | None]"
"""Gives the concrete shape of a value, or None where it is not known."""

Formula: TypeAlias = "Callable[[ir.Node, ShapeOf], int | None]"
"""Gives the multiply-accumulates of a node, or None where a shape it needs is not known."""

MICROSOFT = "com.microsoft"


def macs_of(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """The multiply-accumulates of one run of `node`: 0 where they are not worth counting.

    None says that the operator counts and that a shape it needs is not known.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    formula = FORMULAS.get((domain, node.op_type))
    return 0 if formula is None else formula(node, shape_of)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _flag(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None or attribute.is_ref() else attribute.as_int()


def _convolution(weight: int, *, data: int = 0, per: str = "output") -> Formula:
    """Each element of the output (of the input, when transposed) meets one filter of the weight."""

    def formula(node: ir.Node, shape_of: ShapeOf) -> int | None:
        moved = shape_of(node.outputs[0] if per == "output" else _input(node, data))
        filters = shape_of(_input(node, weight))
        if moved is None or filters is None:
            return None
        return math.prod(moved) * math.prod(filters[1:])

    return formula


def _matrix_product(*, left: int = 0, right: int = 1, transposed: str = "transA") -> Formula:
    """Each element of the output is a sum over the inner axis of the left operand."""

    def formula(node: ir.Node, shape_of: ShapeOf) -> int | None:
        a, b = shape_of(_input(node, left)), shape_of(_input(node, right))
        if not a:
            return None
        inner = a[-2] if len(a) > 1 and _flag(node, transposed) else a[-1]
        made = shape_of(node.outputs[0])
        if made is None and b and not _flag(node, transposed) and not _flag(node, "transB"):
            made = _product_shape(a, b)
        return None if made is None else math.prod(made) * inner

    return formula


def _product_shape(a: Dims, b: Dims) -> Dims:
    """The shape of a matrix product, by the broadcasting rules of numpy.matmul."""
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    batches = [batch for batch in (a[:-2], b[:-2]) if batch]
    width = max(map(len, batches), default=0)
    padded = [(1,) * (width - len(batch)) + batch for batch in batches]
    return (*map(max, zip(*padded, strict=True)), *rows, *columns)


def _packed_product(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """A product with a weight packed in blocks; its real size is in the attributes K and N."""
    a = shape_of(_input(node, 0))
    return None if a is None else math.prod(a[:-1]) * _flag(node, "K") * _flag(node, "N")


def _recurrent(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Every step and every sample meets the input weights and the recurrence weights once.

    Their shapes are (directions, gates * hidden, input) and (directions, gates * hidden, hidden).
    """
    x, w, r = (shape_of(_input(node, index)) for index in range(3))
    if x is None or w is None or r is None:
        return None
    return math.prod(x[:2]) * (math.prod(w) + math.prod(r))


def _attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Scores and mixing: queries times keys, then weights times values, over every key.

    Inputs are query, key, value, mask, past key, past value; a 3D tensor holds the heads in its
    last axis, a 4D one in its second.
    """
    query, key = shape_of(_input(node, 0)), shape_of(_input(node, 1))
    made = shape_of(node.outputs[0])
    if query is None or key is None or made is None or len(key) < 3:
        return None
    past = _input(node, 4)
    past_shape = shape_of(past)
    if past is not None and past_shape is None:
        return None
    keys = key[-2] + (past_shape[-2] if past_shape else 0)
    return keys * (math.prod(query) + math.prod(made))


def _fused_attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """com.microsoft.MultiHeadAttention with separate query, key and value."""
    query, key = shape_of(_input(node, 0)), shape_of(_input(node, 1))
    made = shape_of(node.outputs[0])
    if query is None or key is None or made is None or len(query) != 3:
        return None
    # (batch, keys, hidden), or (batch, heads, keys, head size) for cross attention.
    keys = key[1] if len(key) == 3 else key[-2]
    return keys * (math.prod(query) + math.prod(made))


def _grouped_attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """com.microsoft.GroupQueryAttention; its present keys say how many there are with the past."""
    made = shape_of(node.outputs[0])
    present = shape_of(node.outputs[1]) if len(node.outputs) > 1 else None
    if made is None or present is None:
        return None
    return 2 * present[-2] * math.prod(made)


def _projected_attention(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """com.microsoft.Attention: the projection to query, key and value, then the attention."""
    x, weight = shape_of(_input(node, 0)), shape_of(_input(node, 1))
    made = shape_of(node.outputs[0])
    if x is None or weight is None or made is None:
        return None
    sizes = node.attributes.get("qkv_hidden_sizes")
    query = sizes.as_ints()[0] if sizes is not None else weight[-1] // 3
    tokens = math.prod(x[:2])
    return tokens * math.prod(weight) + x[1] * (tokens * query + math.prod(made))


def _einsum(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """The size of the whole index space, once for every operand after the first."""
    shapes = [shape_of(value) for value in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    attribute = node.attributes.get("equation")
    if attribute is None or attribute.is_ref() or len(known) != len(shapes):
        return None
    terms = attribute.as_string().replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(known):
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, known, strict=True):
        for label, size in _labelled(term, shape):
            sizes[label] = max(size, sizes.get(label, 1))
    return (len(terms) - 1) * math.prod(sizes.values())


def _labelled(term: str, shape: Dims) -> Iterable[tuple[str, int]]:
    head, dots, tail = term.partition("...")
    yield from zip(head, shape, strict=False)
    if dots:
        middle = shape[len(head) : len(shape) - len(tail)]
        yield from ((f"...{len(middle) - index}", size) for index, size in enumerate(middle))
        yield from zip(reversed(tail), reversed(shape), strict=False)


_CONVOLUTION = _convolution(1)
_TRANSPOSED = _convolution(1, per="input")
_QUANTIZED_CONVOLUTION = _convolution(3)
_PRODUCT = _matrix_product()
_QUANTIZED_PRODUCT = _matrix_product(right=3)

FORMULAS: Mapping[tuple[str, str], Formula] = {
    ("", "Attention"): _attention,
    ("", "Conv"): _CONVOLUTION,
    ("", "ConvInteger"): _CONVOLUTION,
    ("", "ConvTranspose"): _TRANSPOSED,
    ("", "DeformConv"): _CONVOLUTION,
    ("", "Einsum"): _einsum,
    ("", "GRU"): _recurrent,
    ("", "Gemm"): _PRODUCT,
    ("", "LSTM"): _recurrent,
    ("", "MatMul"): _PRODUCT,
    ("", "MatMulInteger"): _PRODUCT,
    ("", "QLinearConv"): _QUANTIZED_CONVOLUTION,
    ("", "QLinearMatMul"): _QUANTIZED_PRODUCT,
    ("", "RNN"): _recurrent,
    (MICROSOFT, "Attention"): _projected_attention,
    (MICROSOFT, "ConvTransposeWithDynamicPads"): _TRANSPOSED,
    (MICROSOFT, "DynamicQuantizeLSTM"): _recurrent,
    (MICROSOFT, "DynamicQuantizeMatMul"): _PRODUCT,
    (MICROSOFT, "FusedConv"): _CONVOLUTION,
    (MICROSOFT, "FusedGemm"): _PRODUCT,
    (MICROSOFT, "FusedMatMul"): _PRODUCT,
    (MICROSOFT, "FusedMatMulActivation"): _PRODUCT,
    (MICROSOFT, "GemmFastGelu"): _PRODUCT,
    (MICROSOFT, "GemmFloat8"): _PRODUCT,
    (MICROSOFT, "GroupQueryAttention"): _grouped_attention,
    (MICROSOFT, "MatMulBnb4"): _packed_product,
    (MICROSOFT, "MatMulInteger16"): _PRODUCT,
    (MICROSOFT, "MatMulIntegerToFloat"): _PRODUCT,
    (MICROSOFT, "MatMulNBits"): _packed_product,
    (MICROSOFT, "MultiHeadAttention"): _fused_attention,
    (MICROSOFT, "NhwcConv"): _CONVOLUTION,
    (MICROSOFT, "NhwcFusedConv"): _CONVOLUTION,
    (MICROSOFT, "QAttention"): _projected_attention,
    (MICROSOFT, "QGemm"): _matrix_product(right=3),
    (MICROSOFT, "QLinearConv"): _QUANTIZED_CONVOLUTION,
    (MICROSOFT, "TransposeMatMul"): _PRODUCT,
}
"""The operators that count, by domain ("" is the standard one) and name."""
