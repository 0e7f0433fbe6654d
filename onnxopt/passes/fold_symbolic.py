"""Takes computed shapes off the operators that read them, as far as symbolic dims prove it.

A Reshape to [batch, seq, 12, 32] of a tensor [batch, seq, 384] needs no computed shape: [0, 0, 12,
32] says the same for every batch and seq. Dims stay dynamic; nothing is assumed about their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.passes.fold_place import Placer
from onnxopt.passes.propagate import Dims, Facts, Place, Unknown
from onnxopt.passes.propagate_dims import FAR, slices
from onnxopt.passes.symbols import Dim, is_positive

_END = 2**63 - 1
_MOST_ZEROS = 1 << 20

Rewrite = Callable[[Place, Placer], bool]


def simplify(node: ir.Node, facts: Facts, opset: int, placer: Placer) -> bool:
    """Replace computed shape operands of the node by constants, or the node by its input."""
    rewrite = _REWRITES.get(node.op_type) if ops.is_standard(node) else None
    if rewrite is None:
        return False
    try:
        return rewrite(Place(node, facts, opset), placer)
    except Unknown:
        return False


def reshape_target(source: Dims, result: Dims, inferred: int = -1) -> list[int] | None:
    """Constants that reshape any tensor of `source` dims to `result` dims, 0 meaning "copy".

    None if no constants do. A 0 copies a dim that is proven equal; a -1 stands for the one dim that
    is left, as long as no copied dim may be zero, since the size of -1 would then be undefined.
    Where the node itself leaves the dim at index `inferred` open, that is so anyway.
    """
    constants: list[int] = []
    copied: list[Dim] = []
    for index, dim in enumerate(result):
        if isinstance(dim, int) and dim > 0:
            constants.append(dim)
        elif index < len(source) and source[index] == dim:
            constants.append(0)
            copied.append(dim)
        else:
            constants.append(-1)
    if -1 not in constants or (inferred >= 0 and constants[inferred] == -1):
        return constants if constants.count(-1) < 2 else None
    return constants if constants.count(-1) == 1 and all(map(is_positive, copied)) else None


def _reshape(place: Place, placer: Placer) -> bool:
    node, result = place.node, place.facts.dims_of(place.node.outputs[0])
    if result is None or place.opset < 5:
        return False
    sources = [(source, place.facts.dims_of(source)) for source in _sources(node)]
    for source, dims in sources:
        if dims == result and _drop(place, source):
            return True
    if ops.is_constant(place.input(1)):
        return False
    target = place.items(1) or []
    inferred = target.index(-1) if -1 in target else -1
    for source, dims in sources:
        constants = None if dims is None else reshape_target(dims, result, inferred)
        if constants is not None:
            _set_input(place, placer, 1, constants)
            node.replace_input_with(0, source)
            node.attributes.pop("allowzero", None)
            return True
    return False


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """Values that hold the elements the node reads in their order, nearest first."""
    value = node.inputs[0]
    while value is not None:
        yield value
        producer = value.producer()
        if producer is None or not ops.is_standard(producer, *_VIEWS):
            return
        value = producer.inputs[0]


_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def _expand(place: Place, placer: Placer) -> bool:
    source, target = place.dims(0), place.items(1)
    if source is None or target is None:
        return False
    ones: list[Dim] = [1] * (len(target) - len(source))
    before = [*ones, *source]
    after = [*[1] * (len(source) - len(target)), *target]
    wanted = [1 if dim == old else dim for dim, old in zip(after, before, strict=True)]
    if len(target) <= len(source) and all(dim == 1 for dim in wanted):
        return _drop(place)
    constants = [dim for dim in wanted if isinstance(dim, int)]
    if ops.is_constant(place.input(1)) or len(constants) != len(wanted):
        return False
    _set_input(place, placer, 1, constants)
    return True


def _slice(place: Place, placer: Placer) -> bool:
    dims = place.dims(0)
    if dims is None:
        return False
    windows = slices(place, len(dims))
    if all(_is_whole(dims[axis], start, end, step) for axis, start, end, step in windows):
        return _drop(place)
    if place.opset < 10:
        return False
    changed = False
    starts = [start for _, start, _, _ in windows]
    if not ops.is_constant(place.input(1)) and all(isinstance(start, int) for start in starts):
        _set_input(place, placer, 1, [start for start in starts if isinstance(start, int)])
        changed = True
    ends = [_end(dims[axis], end, step) for axis, _, end, step in windows]
    known = [end for end in ends if end is not None]
    if not ops.is_constant(place.input(2)) and len(known) == len(ends):
        _set_input(place, placer, 2, known)
        changed = True
    return changed


def _is_whole(size: Dim, start: Dim, end: Dim, step: int) -> bool:
    if step != 1 or start != 0:
        return False
    if isinstance(end, int) and end >= FAR:
        return True
    return end == size or (isinstance(end, int) and isinstance(size, int) and end >= size)


def _end(size: Dim, end: Dim, step: int) -> int | None:
    """The end of a window as a number that means the same for every size of the axis."""
    if isinstance(end, int):
        return end
    if step < 0:
        return None
    if end == size:
        return _END
    # An end of size - 1 is -1; at size zero both take nothing. For size - 2 that does not hold.
    return -1 if end == size - 1 else None


def _tile(place: Place, _: Placer) -> bool:
    repeats = place.items(1)
    if repeats is None or place.opset < 6 or not all(times == 1 for times in repeats):
        return False
    return _drop(place)


def _recurrent(place: Place, _: Placer) -> bool:
    """Leave out initial states of zeros: that is what a recurrent layer starts from anyway."""
    zeros = [index for index in (5, 6) if _is_zeros(place.input(index))]
    for index in zeros:
        place.node.replace_input_with(index, None)
    return bool(zeros)


def _is_zeros(value: ir.Value | None) -> bool:
    """Whether every element is zero, whatever the shape."""
    while value is not None:
        tensor = ops.constant(value)
        if tensor is not None:
            return tensor.nbytes <= _MOST_ZEROS and not np.any(tensor.numpy())
        node = value.producer()
        if node is None or not node.inputs:
            return False
        if ops.is_standard(node, "ConstantOfShape"):
            fill = node.attributes.get("value")
            filler = ops.tensor_of(fill)
            return fill is None or (filler is not None and not np.any(filler.numpy()))
        if not ops.is_standard(node, *_VIEWS, "Expand", "Gather", "Slice", "Tile", "Transpose"):
            return False
        value = node.inputs[0]
    return False


def _drop(place: Place, source: ir.Value | None = None) -> bool:
    """Let a value (by default the input) stand in for the output, unless a graph gives that out."""
    value = place.node.outputs[0]
    source = place.input(0) if source is None else source
    if source is None or value.is_graph_output():
        return False
    value.replace_all_uses_with(source)
    return True


def _set_input(place: Place, placer: Placer, index: int, numbers: Sequence[int]) -> None:
    graph = place.node.graph
    if graph is None or not placer.has_room(graph, ir.DataType.INT64):
        raise Unknown("a place for the constant")
    old = place.input(index)
    name = f"{old.name if old is not None else place.node.name}_known"
    place.node.replace_input_with(index, placer.integers(numbers, place.node, name))


_REWRITES: dict[str, Rewrite] = {
    "Expand": _expand,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tile": _tile,
}
