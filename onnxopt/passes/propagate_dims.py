"""The dims each operator gives its outputs, by operator.

A rule may take for granted that the node runs without an error: what it says must hold for every
run that gets past the node.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt import ops
from onnxopt.passes.propagate import Dims, DimsRule, Place, Unknown
from onnxopt.passes.propagate_control import if_dims, loop_dims
from onnxopt.passes.propagate_views import VIEW_RULES
from onnxopt.passes.propagate_windows import WINDOW_RULES
from onnxopt.passes.symbols import (
    Dim,
    Names,
    exact_quotient,
    is_natural,
)

FAR = 2**31 - 1
"""A Slice end of at least this much means "to the end of the axis"."""


def slice_length(names: Names, size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements a Slice takes of an axis of `size`."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(size)[start:end:step])
    if step == 1:
        first, last = _bound(names, size, start), _bound(names, size, end)
        return names.greatest(0, last - first)
    if step > 1 and start == 0 and isinstance(end, int) and end >= FAR:
        return names.floor_divide(size + (step - 1), step) or names.fresh()
    if step == -1 and start == -1 and isinstance(end, int) and end <= -FAR:
        return size
    return names.fresh()


def _bound(names: Names, size: Dim, position: Dim) -> Dim:
    """A Slice start or end (step 1) as an index between 0 and `size`."""
    if isinstance(position, int):
        if position == 0:
            return 0
        if position >= FAR:
            return size
        if position < 0:
            return names.greatest(0, size + position)
    elif not is_natural(position):
        return names.fresh()
    return names.least(position, size)


def _same(place: Place) -> list[Dims | None]:
    return [place.dims(0)]


def _elementwise(place: Place) -> list[Dims | None]:
    shapes = [place.rank_known(index) for index in range(len(place.node.inputs))]
    return [place.facts.names.broadcast_all(shapes)]


def _concat(place: Place) -> list[Dims | None]:
    shapes = [place.rank_known(index) for index in range(len(place.node.inputs))]
    axis = place.int_attribute("axis", 0) % len(shapes[0])
    result = [_most_known(column) for column in zip(*shapes, strict=True)]
    total: Dim = 0
    for dims in shapes:
        total = total + dims[axis]
    result[axis] = total
    return [tuple(result)]


def _most_known(dims: Sequence[Dim]) -> Dim:
    """One of several dims that must be equal: a number if there is one."""
    return next((dim for dim in dims if isinstance(dim, int)), dims[0])


def _slice(place: Place) -> list[Dims | None]:
    dims = list(place.rank_known(0))
    for axis, start, end, step in slices(place, len(dims)):
        dims[axis] = slice_length(place.facts.names, dims[axis], start, end, step)
    return [tuple(dims)]


def slices(place: Place, rank: int) -> list[tuple[int, Dim, Dim, int]]:
    """What a Slice takes: axis, start, end and step for each axis it names.

    Raises:
        Unknown: Starts, ends, axes or steps are not known.
    """
    if place.opset < 10:
        starts: Sequence[Dim] | None = place.ints_attribute("starts")
        ends: Sequence[Dim] | None = place.ints_attribute("ends")
        axes, steps = place.ints_attribute("axes"), None
    else:
        starts, ends = place.items(1), place.items(2)
        axes, steps = place.integers(3), place.integers(4)
        if (place.input(3) and axes is None) or (place.input(4) and steps is None):
            raise Unknown("axes or steps")
    if starts is None or ends is None:
        raise Unknown("starts or ends")
    where = [axis % rank for axis in axes] if axes is not None else list(range(len(starts)))
    return list(zip(where, starts, ends, steps or [1] * len(starts), strict=True))


def _split(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    axis = place.int_attribute("axis", 0) % len(dims)
    count = len(place.node.outputs)
    sizes: Sequence[Dim] | None = place.ints_attribute("split") or place.items(1)
    if sizes is None:
        if place.input(1) is not None:
            raise Unknown("split")
        sizes = _even_split(dims[axis], count)
    return [(*dims[:axis], size, *dims[axis + 1 :]) for size in sizes]


def _even_split(size: Dim, count: int) -> list[Dim]:
    if isinstance(size, int):
        chunk = -(-size // count)
        return [*[chunk] * (count - 1), size - chunk * (count - 1)]
    chunk_dim = exact_quotient(size, count)
    if chunk_dim is None:
        raise Unknown("split")
    return [chunk_dim] * count


def _gather(place: Place) -> list[Dims | None]:
    dims, indices = place.rank_known(0), place.rank_known(1)
    axis = place.int_attribute("axis", 0) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


def _like_second(place: Place) -> list[Dims | None]:
    return [place.dims(1)]


def _pad(place: Place) -> list[Dims | None]:
    dims = list(place.rank_known(0))
    pads: Sequence[Dim] | None = place.ints_attribute("pads") or place.items(1)
    axes = place.integers(3)
    if pads is None or (place.input(3) is not None and axes is None):
        raise Unknown("pads")
    where = [axis % len(dims) for axis in axes] if axes is not None else range(len(dims))
    for index, axis in enumerate(where):
        total = dims[axis] + pads[index] + pads[index + len(pads) // 2]
        dims[axis] = (
            total if isinstance(total, int) or is_natural(total) else place.facts.names.fresh()
        )
    return [tuple(dims)]


def _tile(place: Place) -> list[Dims | None]:
    dims, repeats = place.rank_known(0), place.items(1)
    if repeats is None or place.opset < 6 or not all(map(is_natural, repeats)):
        raise Unknown("repeats")
    return [tuple(dim * times for dim, times in zip(dims, repeats, strict=True))]


def _filled(place: Place) -> list[Dims | None]:
    target = place.items(0)
    if target is None or not all(map(is_natural, target)):
        raise Unknown("shape")
    return [tuple(target)]


def _range(place: Place) -> list[Dims | None]:
    start, limit, delta = (place.items(index) for index in range(3))
    if start is None or limit is None or delta is None:
        raise Unknown("bounds")
    names = place.facts.names
    length = names.greatest(0, limit[0] - start[0])
    if delta[0] == 1:
        return [(length,)]
    counted = names.floor_divide(length + (delta[0] - 1), delta[0])
    return [(names.fresh() if counted is None else counted,)]


def _matmul(place: Place) -> list[Dims | None]:
    left, right = place.rank_known(0), place.rank_known(1)
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    outer = place.facts.names.broadcast_all([left[:-2], right[:-2]])
    return [(*outer, *rows, *columns)]


def _gemm(place: Place) -> list[Dims | None]:
    left = place.dims(0) or (place.facts.names.fresh(), place.facts.names.fresh())
    right = place.rank_known(1)
    rows = left[1 if place.int_attribute("transA", 0) else 0]
    columns = right[0 if place.int_attribute("transB", 0) else 1]
    return [(rows, columns)]


def _reduce(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    axes = place.axes(1)
    if axes is None and place.input(1) is not None:
        raise Unknown("axes")
    if not axes and place.int_attribute("noop_with_empty_axes", 0):
        return [dims]
    gone = {axis % len(dims) for axis in axes or range(len(dims))}
    return [_without_axes(dims, gone, place.int_attribute("keepdims", 1))]


def _arg_reduce(place: Place) -> list[Dims | None]:
    dims = place.rank_known(0)
    axis = place.int_attribute("axis", 0) % len(dims)
    return [_without_axes(dims, {axis}, place.int_attribute("keepdims", 1))]


def _without_axes(dims: Dims, gone: set[int], keep: int) -> Dims:
    if keep:
        return tuple(1 if index in gone else dim for index, dim in enumerate(dims))
    return tuple(dim for index, dim in enumerate(dims) if index not in gone)


def _shape(place: Place) -> list[Dims | None]:
    return [(len(place.rank_known(0)[shape_window(place)]),)]


def shape_window(place: Place) -> slice:
    """Which dims a Shape node gives, by its start and end."""
    end = place.node.attributes.get("end")
    return slice(
        place.int_attribute("start", 0), None if end is None else place.int_attribute("end", 0)
    )


def _einsum(place: Place) -> list[Dims | None]:
    equation = place.text_attribute("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        raise Unknown("equation")
    sizes: dict[str, list[Dim]] = {}
    for index, term in enumerate(terms.split(",")):
        for letter, dim in zip(term, place.rank_known(index), strict=True):
            sizes.setdefault(letter, []).append(dim)
    return [tuple(_most_known(sizes[letter]) for letter in result)]


_SAME_SHAPE = (
    ops.ELEMENTWISE_UNARY
    | ops.QUANTIZING - {"DynamicQuantizeLinear"}
    | {
        "BatchNormalization",
        "Bernoulli",
        "CastLike",
        "CumSum",
        "Dropout",
        "GroupNormalization",
        "Hardmax",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
        "RandomNormalLike",
        "RandomUniformLike",
        "ReverseSequence",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "Softmax",
        "Trilu",
    }
)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

DIMS_RULES: dict[str, DimsRule] = {
    **dict.fromkeys(_SAME_SHAPE, _same),
    **dict.fromkeys(ops.ELEMENTWISE_BINARY - {"PRelu"}, _elementwise),
    **dict.fromkeys(ops.ELEMENTWISE_VARIADIC, _elementwise),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCTIONS), _reduce),
    **VIEW_RULES,
    **WINDOW_RULES,
    "ArgMax": _arg_reduce,
    "ArgMin": _arg_reduce,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Einsum": _einsum,
    "Gather": _gather,
    "GatherElements": _like_second,
    "Gemm": _gemm,
    "If": if_dims,
    "Loop": loop_dims,
    "MatMul": _matmul,
    "PRelu": _same,
    "Pad": _pad,
    "Range": _range,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
}

ML_DIMS_RULES: dict[str, DimsRule] = dict.fromkeys(
    ("Binarizer", "Imputer", "Normalizer", "Scaler"), _same
)
"""The same for operators of ai.onnx.ml."""
