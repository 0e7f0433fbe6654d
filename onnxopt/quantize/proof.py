"""What became of each node of a quantized model: its integer kernel, or why it stays float.

The model is loaded as the provider would load it, and the graph that onnxruntime made of it is
read. Names and values carry a mark through that, so that every node is found again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxopt import io, ops
from onnxopt.quantize.intent import is_intended
from onnxopt.quantize.placement import MIXED_OUTPUT, is_integer_kernel
from onnxopt.quantize.reasons import Why, why
from onnxopt.quantize.units import (
    ABSORBED,
    Unit,
    is_byte_op,
    is_dequantize,
    is_quantize,
    named,
    readers,
    unit_of,
)
from onnxopt.runtime.providers import CPU, Provider, name_of
from onnxopt.runtime.sessions import optimized_graph

FLOAT = "float"
_MARK = re.compile(r"(?<![0-9A-Za-z])oxp(\d+)")
_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4)


@dataclass(frozen=True, slots=True)
class NodeProof:
    """What became of a node that Q/DQ pairs touch, or that computes with codes as it is written.

    `kernel` is the operator that onnxruntime runs for it ("QLinearConv"; a plain name such as
    "Reshape" where codes are moved), or "float". `integer` says which of both. A float node has
    the name of the `rule` that kept it so, the `reason` and the `fix` that would change it.
    `intended` is False where pairs only end at the node, so that nobody meant it to run in
    integers.
    """

    name: str
    op_type: str
    kernel: str
    integer: bool
    intended: bool
    rule: str = ""
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of the nodes, in the model's order, and of the Q and DQ nodes that are left.

    `borders` counts the Q and DQ nodes that really run; those of constants included.
    """

    nodes: tuple[NodeProof, ...]
    borders: Mapping[str, int]
    providers: tuple[str, ...]

    @property
    def integer(self) -> tuple[NodeProof, ...]:
        """The nodes that run in integers."""
        return tuple(node for node in self.nodes if node.integer)

    @property
    def stayed_float(self) -> tuple[NodeProof, ...]:
        """The nodes that were meant to run in integers and do not."""
        return tuple(node for node in self.nodes if node.intended and not node.integer)

    @property
    def kernels(self) -> dict[str, int]:
        """How many nodes each integer kernel runs."""
        return dict(Counter(node.kernel for node in self.integer))


def prove(model: io.Source, *, providers: Sequence[Provider] = (CPU,)) -> Proof:
    """Say of each node between Q/DQ pairs whether it runs in integers, and if not, why.

    Args:
        model: A quantized model of any tool; it is not changed.
        providers: Execution providers, first choice first.

    Raises:
        RuntimeFailed: The providers can't load the model, or don't show what they make of it.
        BadInput: A provider is unknown or not installed.
        BadModel: The model can't be read.
    """
    marked = _plain(io.load(model))
    nodes = list(marked.graph.all_nodes())
    names = [node.name or f"{node.op_type} of {_first(node)}" for node in nodes]
    _mark(nodes)
    found = _Found.of(optimized_graph(marked, providers))
    judge = _Judge(nodes, found)
    proofs = tuple(
        proof
        for i, node in enumerate(nodes)
        if _concerns(node) and (proof := judge.judged(i, names[i])) is not None
    )
    return Proof(proofs, found.borders, tuple(name_of(provider) for provider in providers))


def _plain(model: ir.Model) -> ir.Model:
    """A copy in which local functions are spelled out, as onnxruntime does it first."""
    copy = model.clone()
    if copy.functions:
        from onnx_ir.passes import common

        common.InlinePass()(copy)
    return copy


def _first(node: ir.Node) -> str:
    return next((value.name or "" for value in node.outputs), "")


def _mark(nodes: Sequence[ir.Node]) -> None:
    """Name each node and its outputs after the node's place; other names stay as they are."""
    for i, node in enumerate(nodes):
        node.name = f"oxp{i}"
        for j, value in enumerate(node.outputs):
            if value.name:
                value.name = f"oxp{i}/{j}"


def _concerns(node: ir.Node) -> bool:
    """Whether Q/DQ pairs touch the node, or it computes with codes as it is written."""
    if is_byte_op(node) or node.op_type in ("Constant", *ops.SHAPE_ONLY):
        return False
    read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
    return (
        is_integer_kernel(node.op_type)
        or _looks_up_codes(node)
        or any(is_dequantize(value.producer()) for value in named(read))
        or any(is_quantize(each) for value in named(node.outputs) for each in readers(value))
    )


def _looks_up_codes(node: ir.Node) -> bool:
    """Whether the node takes rows out of a constant table of codes."""
    table = ops.constant(node.inputs[0]) if ops.is_standard(node, "Gather") else None
    return table is not None and table.dtype in (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, slots=True)
class _Found:
    """The nodes of the optimized graph by the mark in their name, and in those of their outputs.

    `integer` holds the first outputs of those that compute with codes.
    """

    by_name: Mapping[int, list[onnx.NodeProto]]
    by_output: Mapping[int, onnx.NodeProto]
    integer: frozenset[str]
    borders: Mapping[str, int]
    graph: onnx.ModelProto

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Found:
        by_name: dict[int, list[onnx.NodeProto]] = {}
        by_output: dict[int, onnx.NodeProto] = {}
        integer: set[str] = set()
        borders: Counter[str] = Counter()
        codes: set[str] = set()
        for graph in _graphs(model.graph):
            codes |= _given_codes(graph)
            for node in graph.node:
                for mark in _MARK.findall(node.name):
                    by_name.setdefault(int(mark), []).append(node)
                for name in node.output:
                    for mark in _MARK.findall(name):
                        by_output.setdefault(int(mark), node)
                if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                    borders[node.op_type] += 1
                if _computes_with_codes(node, codes):
                    integer.add(node.output[0])
        return cls(by_name, by_output, frozenset(integer), dict(borders), model)

    def node(self, mark: int) -> onnx.NodeProto | None:
        """What the marked node became; an integer kernel before a Transpose around it."""
        named_so = self.by_name.get(mark, [])
        for node in named_so:
            if self.computes(node):
                return node
        found = self.by_output.get(mark)
        if found is not None and found.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found = None
        return named_so[0] if named_so else found

    def computes(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the optimized graph computes with codes."""
        return node.output[0] in self.integer


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _given_codes(graph: onnx.GraphProto) -> set[str]:
    """The 8-bit values that come into the graph."""
    given = {value.name for value in graph.input if value.type.tensor_type.elem_type in _BYTES}
    return given | {tensor.name for tensor in graph.initializer if tensor.data_type in _BYTES}


def _computes_with_codes(node: onnx.NodeProto, codes: set[str]) -> bool:
    """Whether the node does; what it makes of codes joins `codes`. Asked in the graph's order."""
    if node.op_type == "QuantizeLinear":
        codes.update(node.output)
        return False
    if node.op_type == "DequantizeLinear":
        return False
    if is_integer_kernel(node.op_type):
        if node.op_type not in MIXED_OUTPUT and _gives_codes(node):
            codes.update(node.output)
        return True
    first = 1 if node.op_type == "Where" else 0
    if len(node.input) <= first or node.input[first] not in codes:
        return False
    if node.op_type not in ("ArgMax", "Cast", "Shape", "Size"):
        codes.update(node.output)
    return node.op_type not in ("Cast", "Shape", "Size")


def _gives_codes(node: onnx.NodeProto) -> bool:
    """Whether an integer kernel codes its output: a QGemm does only where it has a scale for it."""
    return node.op_type != "QGemm" or (len(node.input) > 7 and bool(node.input[7]))


class _Judge:
    """Says of each original node what became of it."""

    def __init__(self, nodes: Sequence[ir.Node], found: _Found) -> None:
        self._places = {node: i for i, node in enumerate(nodes)}
        self._nodes = nodes
        self._found = found

    def judged(self, place: int, name: str) -> NodeProof | None:
        """The node's proof, None where it was computed when the model was loaded."""
        node = self._nodes[place]
        unit = unit_of(node)
        intended = is_intended(unit) or is_integer_kernel(node.op_type)
        became = self._found.node(place)
        if became is None or (
            place not in self._found.by_name and not self._found.computes(became)
        ):
            # What only carries the output's name may be a Reshape around the kernel.
            became = self._merged(node) or became
        if became is None:
            if _is_constant(node):
                return None
            return self._vanished(node, name)
        if self._found.computes(became):
            return NodeProof(name, node.op_type, became.op_type, True, intended)
        reason = self._why(unit, became)
        return NodeProof(
            name, node.op_type, FLOAT, False, intended, reason.rule, reason.reason, reason.fix
        )

    def _merged(self, node: ir.Node) -> onnx.NodeProto | None:
        """The kernel that took the node in: that of the node before it, else of one after it."""
        for value in named(node.inputs):
            maker = value.producer()
            if maker is not None and not is_byte_op(maker) and maker in self._places:
                became = self._found.node(self._places[maker])
                if became is not None and self._found.computes(became):
                    return became
        for value in named(node.outputs):
            for reader in readers(value):
                if not is_byte_op(reader) and reader in self._places:
                    became = self._found.node(self._places[reader])
                    if became is not None:
                        return became
        for value in named(node.inputs):
            maker = value.producer()
            if maker is not None and maker in self._places and not is_byte_op(maker):
                return self._found.node(self._places[maker])
        return None

    def _vanished(self, node: ir.Node, name: str) -> NodeProof:
        """A node that neither runs nor is part of another: nothing is computed for it."""
        kernel = "QuantizeLinear" if node.op_type in ABSORBED else "nothing"
        return NodeProof(name, node.op_type, kernel, True, False)

    def _why(self, unit: Unit, became: onnx.NodeProto) -> Why:
        found = why(unit)
        if found.rule == "declined" and became.op_type != unit.node.op_type:
            return Why(
                "merged-in-float",
                f"onnxruntime merged it with float nodes into {became.op_type}",
                "put a pair on its output, so that it can't be merged",
            )
        return found


def _is_constant(node: ir.Node) -> bool:
    """Whether all that the node reads is constant."""
    pending, seen = [node], {node}
    while pending:
        for value in named(pending.pop().inputs):
            maker = value.producer()
            if maker is None:
                if not ops.is_constant(value):
                    return False
            elif maker not in seen:
                seen.add(maker)
                pending.append(maker)
    return True
