"""The dims each operator gives its outputs, by operator.

A rule may take for granted that the node runs without an error: what it says must hold for every
run that gets past the node.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt import ops
from onnxopt.passes.propagate import Dims, DimsRule, Place, Unknown
from onnxopt.passes.propagate_control import if_dims, loop_dims
from onnxopt.passes.propagate_windows import WINDOW_RULES
from onnxopt.passes.symbols import Dim, Names, exact_quotient, is_natural, is_positive, product

FAR = 2**31 - 1
"""A Slice end of at least this much means "to the end of the axis"."""


def need(dims: Dims | None) -> Dims:
    """The dims.

    Raises:
        Unknown: The rank is not known.
    """
    if dims is None:
        raise Unknown("rank")
    return dims


def broadcast(names: Names, shapes: Sequence[Dims]) -> Dims:
    """The dims that tensors of these dims have after broadcasting against each other."""
    rank = max(map(len, shapes))
    result: list[Dim] = [1] * rank
    for dims in shapes:
        for index, dim in enumerate(dims, start=rank - len(dims)):
            result[index] = names.broadcast(result[index], dim)
    return tuple(result)


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


def reshaped(names: Names, source: Dims | None, target: Sequence[Dim], zero_copies: bool) -> Dims:
    """The dims a Reshape gives."""
    result: list[Dim] = []
    unknown: list[int] = []
    for index, dim in enumerate(target):
        taken = isinstance(dim, int) or is_natural(dim)
        if dim == 0 and zero_copies:
            result.append(need(source)[index])
        elif dim != -1 and taken and (not zero_copies or _is_kept(source, index, dim)):
            result.append(dim)
        else:
            unknown.append(index)
            result.append(names.fresh())
    open_places = unknown or [i for i, dim in enumerate(result) if not isinstance(dim, int)]
    if len(open_places) == 1 and source is not None:
        # The number of elements stays, whatever stands for the one dim that is left.
        (place,) = open_places
        rest = product(dim for index, dim in enumerate(result) if index != place)
        exact = exact_quotient(product(source), rest)
        if exact is not None and (-1 in target or is_positive(rest)):
            result[place] = exact
    return tuple(result)


def _is_kept(source: Dims | None, index: int, dim: Dim) -> bool:
    """Whether an element is the dim it names even where it is zero, which means "copy"."""
    if isinstance(dim, int) or is_positive(dim):
        return True
    if source is None:
        return False
    if index >= len(source):
        # There is nothing to copy, so the node does not run.
        return True
    if exact_quotient(source[index], dim) is not None:
        return True
    times = exact_quotient(dim, source[index])
    return times is not None and is_positive(times)


def _same(place: Place) -> list[Dims | None]:
    return [place.dims(0)]


def _elementwise(place: Place) -> list[Dims | None]:
    shapes = [need(place.dims(index)) for index in range(len(place.node.inputs))]
    return [broadcast(place.facts.names, shapes)]


def _transpose(place: Place) -> list[Dims | None]:
    dims = need(place.dims(0))
    order = place.ints_attribute("perm") or list(range(len(dims)))[::-1]
    return [tuple(dims[axis] for axis in order)]


def _reshape(place: Place) -> list[Dims | None]:
    target = place.items(1)
    if target is None:
        raise Unknown("shape")
    copies = not place.int_attribute("allowzero", 0)
    return [reshaped(place.facts.names, place.dims(0), target, copies)]


def _flatten(place: Place) -> list[Dims | None]:
    dims = need(place.dims(0))
    axis = place.int_attribute("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return [(product(dims[:axis]), product(dims[axis:]))]


def _expand(place: Place) -> list[Dims | None]:
    target = place.items(1)
    if target is None or not all(map(is_natural, target)):
        raise Unknown("shape")
    return [broadcast(place.facts.names, [need(place.dims(0)), tuple(target)])]


def _squeeze(place: Place) -> list[Dims | None]:
    dims = need(place.dims(0))
    axes = place.axes(1)
    if axes is None:
        if place.input(1) is not None or not all(isinstance(dim, int) for dim in dims):
            raise Unknown("axes")
        return [tuple(dim for dim in dims if dim != 1)]
    gone = {axis % len(dims) for axis in axes}
    return [tuple(dim for index, dim in enumerate(dims) if index not in gone)]


def _unsqueeze(place: Place) -> list[Dims | None]:
    dims = list(need(place.dims(0)))
    axes = place.axes(1)
    if axes is None:
        raise Unknown("axes")
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    return [tuple(dims)]


def _concat(place: Place) -> list[Dims | None]:
    shapes = [need(place.dims(index)) for index in range(len(place.node.inputs))]
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
    dims = list(need(place.dims(0)))
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
    dims = need(place.dims(0))
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
    dims, indices = need(place.dims(0)), need(place.dims(1))
    axis = place.int_attribute("axis", 0) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


def _like_second(place: Place) -> list[Dims | None]:
    return [place.dims(1)]


def _pad(place: Place) -> list[Dims | None]:
    dims = list(need(place.dims(0)))
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
    dims, repeats = need(place.dims(0)), place.items(1)
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
    left, right = need(place.dims(0)), need(place.dims(1))
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    outer = broadcast(place.facts.names, [left[:-2], right[:-2]])
    return [(*outer, *rows, *columns)]


def _gemm(place: Place) -> list[Dims | None]:
    left = place.dims(0) or (place.facts.names.fresh(), place.facts.names.fresh())
    right = need(place.dims(1))
    rows = left[1 if place.int_attribute("transA", 0) else 0]
    columns = right[0 if place.int_attribute("transB", 0) else 1]
    return [(rows, columns)]


def _reduce(place: Place) -> list[Dims | None]:
    dims = need(place.dims(0))
    axes = place.axes(1)
    if axes is None and place.input(1) is not None:
        raise Unknown("axes")
    if not axes and place.int_attribute("noop_with_empty_axes", 0):
        return [dims]
    gone = {axis % len(dims) for axis in axes or range(len(dims))}
    return [_without_axes(dims, gone, place.int_attribute("keepdims", 1))]


def _arg_reduce(place: Place) -> list[Dims | None]:
    dims = need(place.dims(0))
    axis = place.int_attribute("axis", 0) % len(dims)
    return [_without_axes(dims, {axis}, place.int_attribute("keepdims", 1))]


def _without_axes(dims: Dims, gone: set[int], keep: int) -> Dims:
    if keep:
        return tuple(1 if index in gone else dim for index, dim in enumerate(dims))
    return tuple(dim for index, dim in enumerate(dims) if index not in gone)


def _shape(place: Place) -> list[Dims | None]:
    found = place.elements(0), place.dims(0)
    dims = need(found[1])
    return [(len(range(len(dims))[shape_window(place)]),)]


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
        for letter, dim in zip(term, need(place.dims(index)), strict=True):
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
    **WINDOW_RULES,
    "ArgMax": _arg_reduce,
    "ArgMin": _arg_reduce,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _like_second,
    "Gemm": _gemm,
    "If": if_dims,
    "Loop": loop_dims,
    "MatMul": _matmul,
    "PRelu": _same,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

ML_DIMS_RULES: dict[str, DimsRule] = dict.fromkeys(
    ("Binarizer", "Imputer", "Normalizer", "Scaler"), _same
)
"""The same for operators of ai.onnx.ml."""
