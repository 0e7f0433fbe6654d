"""What a model is made of and what it takes: nodes, parameters, bytes, multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.bench import sizes
from onnxopt.bench.macs import Dims, macs_of

_SIDES = {4: 224, 5: 64}
"""The size of the open sides of an input that is an image or a volume, by its rank."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The size of a model and the work of one run.

    `nodes` and `ops` (by operator; with the domain in front of all but the standard one) leave out
    Constant nodes and count the bodies of If, Loop, Scan and of local functions once.
    `parameters` are the elements of all initializers and Constant tensors, shared ones once;
    `dtypes` are the same by element type, `parameter_bytes` their size, `bytes` the whole model's.
    `macs` are the multiply-accumulates of one run at the sizes in `macs_at`; None where no shape
    that they need is known. `macs_missing` counts, by operator, the nodes they leave out.
    """

    nodes: int
    ops: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    bytes: int
    dtypes: Mapping[str, int]
    macs: int | None
    macs_by_op: Mapping[str, int] = field(default_factory=dict)
    macs_at: Mapping[str, int] = field(default_factory=dict)
    macs_missing: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def cost(model: ir.Model, *, dims: Mapping[str, int] | None = None) -> Cost:
    """The cost of `model`, from the shapes its values carry now.

    Shapes are read and not inferred: run `onnxopt.passes.shapes.infer` first. `dims` gives sizes
    to symbolic dims; the other ones of the inputs count as 1, the sides of images as 224, and
    `Cost.macs_at` says which did.
    """
    nodes = list(_every_node(model))
    counted = Counter(op_name(node) for node in nodes if not ops.is_standard(node, "Constant"))
    tensors = _distinct(_tensors(model.graph, nodes))
    dtypes: Counter[str] = Counter()
    for tensor in tensors:
        dtypes[tensor.dtype.name] += tensor.size
    work = _Work(model, dims or {})
    macs = work.graph(model.graph)
    total = sum(macs.values())
    return Cost(
        nodes=sum(counted.values()),
        ops=dict(sorted(counted.items())),
        parameters=sum(dtypes.values()),
        parameter_bytes=sum(tensor.nbytes for tensor in tensors),
        bytes=io.model_bytes(model),
        dtypes=dict(sorted(dtypes.items())),
        macs=None if work.missing and not total else total,
        macs_by_op=dict(sorted((name, count) for name, count in macs.items() if count)),
        macs_at=dict(sorted(work.at.items())),
        macs_missing=dict(sorted(work.missing.items())),
        notes=tuple(work.notes),
    )


def cost_at(model: ir.Model, *, dims: Mapping[str, int] | None = None) -> Cost:
    """The cost of `model` with shapes inferred for inputs of one size, the model left as it is.

    This knows more than `cost`: what can't be said about every size can often be said about one,
    and local functions are looked into. Dims of the inputs that are in `dims` have the size given
    there, all others without a number count as 1.
    """
    from onnx_ir.passes import common

    from onnxopt.passes import shapes

    copy = model.clone()
    common.InlinePass()(copy)
    bound = _fix_inputs(copy, dims or {})
    shapes.remember_anew(copy)
    work = cost(copy)
    plain = cost(model, dims=dims)
    return replace(
        plain,
        macs=work.macs,
        macs_by_op=work.macs_by_op,
        macs_at=bound,
        macs_missing=work.macs_missing,
        notes=work.notes,
    )


def macs_by_node(model: ir.Model, *, dims: Mapping[str, int] | None = None) -> dict[str, float]:
    """The multiply-accumulates of each node at one size, see cost_at.

    Of the branches of an If the larger one counts, and in a Loop or Scan each node as often as it
    runs. Nodes without a name go by that of their first output; those of unknown cost count as 0.
    """
    from onnxopt.passes import shapes

    copy = model.clone()
    _fix_inputs(copy, dims or {})
    shapes.remember_anew(copy)
    return _by_node(_Work(copy, {}), copy.graph)


def _by_node(work: _Work, graph: Iterable[ir.Node]) -> dict[str, float]:
    found: dict[str, float] = {}
    for node in graph:
        if bodies := ops.subgraphs(node):
            times = 1 if ops.is_standard(node, "If") else work.trips(node) or 1
            largest = max((_by_node(work, body) for body in bodies), key=lambda b: sum(b.values()))
            found |= {name: times * count for name, count in largest.items()}
        else:
            name = node.name or next((str(v.name) for v in node.outputs if v.name), "")
            found[name] = float(sum(work.graph([node]).values()))
    return found


def op_name(node: ir.Node) -> str:
    """The operator as people write it: "Conv", "com.microsoft.FusedConv"."""
    standard = node.domain in ops.STANDARD_DOMAINS
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node but Constants: of the graph, of the bodies in it and of the local functions."""
    return (node for node in _every_node(model) if not ops.is_standard(node, "Constant"))


def _every_node(model: ir.Model) -> Iterator[ir.Node]:
    for body in (model.graph, *model.functions.values()):
        yield from _within(body)


def _within(body: Iterable[ir.Node]) -> Iterator[ir.Node]:
    for node in body:
        yield node
        for inner in ops.subgraphs(node):
            yield from _within(inner)


def _tensors(graph: ir.Graph, nodes: Sequence[ir.Node]) -> Iterator[ir.TensorProtocol]:
    """The initializers of the graph and of the bodies in its nodes, and the Constants' tensors."""
    inner = (body for node in nodes for body in ops.subgraphs(node))
    for body in (graph, *inner):
        for value in body.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in nodes:
        if ops.is_standard(node, "Constant"):
            tensor = ops.constant(node.outputs[0])
            if tensor is not None:
                yield tensor


def _distinct(tensors: Iterable[ir.TensorProtocol]) -> Iterable[ir.TensorProtocol]:
    """Each stored tensor once: the same object, or the same bytes of the same external file."""
    found: dict[Hashable, ir.TensorProtocol] = {}
    for tensor in tensors:
        key: Hashable = id(tensor)
        if isinstance(tensor, ir.ExternalTensor):
            key = (str(tensor.location), tensor.offset, tensor.length)
        found.setdefault(key, tensor)
    return found.values()


class _Work:
    """Adds up multiply-accumulates, and remembers what was assumed and what was left out."""

    def __init__(self, model: ir.Model, dims: Mapping[str, int]) -> None:
        self.functions = model.functions
        self.bound = _bound(model, dims)
        self.at: dict[str, int] = {}
        self.missing: Counter[str] = Counter()
        self.notes: dict[str, None] = {}
        self._known: dict[str, int | None] = {}

    def graph(self, graph: Iterable[ir.Node]) -> Counter[str]:
        """Multiply-accumulates by operator of one run of the nodes of a graph or function."""
        total: Counter[str] = Counter()
        for node in graph:
            function = self.functions.get(node.op_identifier())
            bodies = ops.subgraphs(node)
            if function is not None:
                total.update(self.graph(function))
            elif bodies:
                total.update(self._bodies(node, bodies))
            else:
                macs = macs_of(node, self.shape_of)
                if macs is None:
                    self.missing[op_name(node)] += 1
                elif macs:
                    total[op_name(node)] += macs
        return total

    def _bodies(self, node: ir.Node, bodies: tuple[ir.Graph, ...]) -> Counter[str]:
        counts = [self.graph(body) for body in bodies]
        largest = max(counts, key=lambda count: sum(count.values()))
        if not any(largest.values()) or ops.is_standard(node, "If"):
            return largest
        times = self.trips(node)
        if times is None:
            self.notes[f"the body of {node.op_type} {node.name!r} is counted once"] = None
        return Counter({name: count * (times or 1) for name, count in largest.items()})

    def trips(self, node: ir.Node) -> int | None:
        """How often a Loop or Scan runs its body, or None where the model does not say."""
        if ops.is_standard(node, "Loop"):
            limit = ops.constant(node.inputs[0])
            # A condition that is given and computed inside can end the loop earlier.
            return int(limit.numpy()) if limit is not None and node.inputs[1] is None else None
        scanned = node.attributes.get("num_scan_inputs")
        axes = node.attributes.get("scan_input_axes")
        if not ops.is_standard(node, "Scan") or scanned is None:
            return None
        first = len(node.inputs) - scanned.as_int()
        shape = self.shape_of(node.inputs[first])
        axis = axes.as_ints()[0] if axes is not None else 0
        return shape[axis] if shape else None

    def shape_of(self, value: ir.Value | None) -> Dims | None:
        """The shape of `value` with every symbolic dim at its size; None if a size is not known."""
        if value is None:
            return None
        shape: ir.ShapeProtocol | None = value.shape
        if shape is None and value.const_value is not None:
            shape = value.const_value.shape
        if shape is None:
            return None
        found = [dim if isinstance(dim, int) else self._size(dim.value) for dim in shape]
        # At a size an input can't have, inference gives dims below zero.
        known = tuple(size for size in found if size is not None and size >= 0)
        return known if len(known) == len(found) else None

    def _size(self, name: str | None) -> int | None:
        if name is None:
            return None
        if name not in self._known:
            self._known[name] = self._evaluated(name)
        return self._known[name]

    def _evaluated(self, name: str) -> int | None:
        if name in self.bound:
            self.at[name] = self.bound[name]
            return self.bound[name]
        size = sizes.evaluate(name, self.bound)
        if size is not None:
            self.at.update({symbol: self.bound[symbol] for symbol in sizes.symbols(name)})
        return size


def _bound(model: ir.Model, dims: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol that the inputs are declared with, and for those in `dims`."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if not isinstance(dim, int) and dim.value is not None:
                found.setdefault(dim.value, _usual_size(value, axis))
    return found | dict(dims)


def _usual_size(value: ir.Value, axis: int) -> int:
    """1, but for the sides of an image or a volume: nothing is left of one pixel after pooling."""
    rank = value.shape.rank() if value.shape is not None else 0
    return _SIDES.get(rank, 1) if axis >= 2 else 1


def _fix_inputs(model: ir.Model, dims: Mapping[str, int]) -> dict[str, int]:
    """Give every input of `model` a static shape, in place; the sizes chosen, by symbol."""
    chosen: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.shape is None or value.is_initializer():
            continue
        fixed: list[int] = []
        for axis, dim in enumerate(value.shape.dims):
            if isinstance(dim, int) and dim >= 0:
                fixed.append(dim)
                continue
            name = _dim_name(value, axis)
            fixed.append(chosen.setdefault(name, dims.get(name, _usual_size(value, axis))))
        value.shape = ir.Shape(fixed)
    return dict(sorted(chosen.items()))


def _dim_name(value: ir.Value, axis: int) -> str:
    """What the open dim of an input is called; one without a name gets its place for one."""
    assert value.shape is not None
    dim = value.shape[axis]
    named = isinstance(dim, ir.SymbolicDim) and dim.value is not None
    return str(dim) if named else f"{value.name}.{axis}"


def sizes_in(model: ir.Model, feed: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the open dims of the inputs in a feed, by the names that `cost_at` knows."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        given = np.shape(feed.get(value.name or "", 0))
        if value.shape is None or value.shape.rank() != len(given):
            continue
        for axis, size in enumerate(given):
            dim = value.shape[axis]
            if not isinstance(dim, int) or dim < 0:
                found.setdefault(_dim_name(value, axis), int(size))
    return found
