"""What is in a model, and what would block the optimizer there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxopt import ops
from onnxopt.bench.cost import Cost, all_nodes, cost, op_name

if TYPE_CHECKING:
    from onnxopt.io import FileInfo

OLDEST_RULES = 7
"""The oldest opset that rules are written for."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as declared; a dim is a number, a name, or "?" for neither."""

    name: str
    type: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something that keeps the optimizer from doing more.

    `what` is a finding, `count` how often it was found, `where` the names of some places, and
    `effect` what follows from it and what the user can do.
    """

    what: str
    count: int
    where: tuple[str, ...]
    effect: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model as it is: `overridable` are the names of initializers that a caller may override.

    `depth` is how deep graphs are nested in If, Loop and Scan; `dynamic_dims` maps a dim's name to
    the inputs and outputs that have it.
    """

    source: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    file: FileInfo | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dynamic_dims: Mapping[str, tuple[str, ...]]
    cost: Cost
    control_flow: Mapping[str, int]
    depth: int
    functions: tuple[str, ...]
    metadata: tuple[str, ...]
    blockers: tuple[Blocker, ...]


def inspection(
    model: ir.Model, inferred: ir.Model, *, source: str, file: FileInfo | None = None
) -> Inspection:
    """Everything to say about `model`; `inferred` is a copy of it whose values carry shapes."""
    graph = model.graph
    inputs = tuple(_port(value) for value in graph.inputs if not value.is_initializer())
    outputs = tuple(_port(value) for value in graph.outputs)
    inner = [node for node in all_nodes(inferred) if ops.subgraphs(node)]
    return Inspection(
        source=source,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        ir_version=model.ir_version or 0,
        opsets={domain or "ai.onnx": v for domain, v in sorted(model.opset_imports.items())},
        file=file,
        inputs=inputs,
        outputs=outputs,
        dynamic_dims=_dynamic_dims((*inputs, *outputs)),
        cost=cost(inferred),
        control_flow=dict(sorted(Counter(map(op_name, inner)).items())),
        depth=_depth(graph),
        functions=tuple(sorted(f"{domain}.{name}" for domain, name, _ in model.functions)),
        metadata=tuple(sorted(model.metadata_props)),
        blockers=tuple(_blockers(model, inferred)),
    )


def _port(value: ir.Value) -> Port:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape.dims)
    return Port(value.name or "", str(value.type or "unknown"), shape)


def _dynamic_dims(ports: Iterable[Port]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for port in ports:
        for dim in port.shape or ():
            if isinstance(dim, str):
                found.setdefault(dim, {})[port.name] = None
    return {dim: tuple(names) for dim, names in sorted(found.items())}


def _depth(graph: ir.Graph) -> int:
    inner = (1 + _depth(body) for node in graph for body in ops.subgraphs(node))
    return max(inner, default=0)


def _blockers(model: ir.Model, inferred: ir.Model) -> Iterator[Blocker]:
    yield from _opset_blockers(model)
    yield from _input_blockers(model)
    yield from _node_blockers(inferred)
    yield from _shape_blockers(model, inferred)


def _opset_blockers(model: ir.Model) -> Iterator[Blocker]:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if opset is None:
        yield Blocker(
            "no import of the standard domain ai.onnx",
            1,
            (),
            "there is no standard node to rewrite",
        )
    elif opset > newest:
        yield Blocker(
            f"opset {opset} is newer than the {newest} that the installed onnx knows",
            1,
            (),
            "the model can't be checked: install a newer onnx and onnxruntime",
        )
    elif opset < OLDEST_RULES:
        yield Blocker(
            f"opset {opset} is older than the {OLDEST_RULES} that rules are written for",
            1,
            (),
            "few rules apply: raise it with --opset",
        )


def _input_blockers(model: ir.Model) -> Iterator[Blocker]:
    names = [value.name or "" for value in model.graph.inputs if value.is_initializer()]
    if names and (model.ir_version or 0) >= 4:
        yield Blocker(
            "initializers that are also inputs: a caller may override them",
            len(names),
            tuple(names),
            "they are not folded or fused: --freeze-inputs makes them constants",
        )
    illegal = [
        f"{value.name}: {dim}"
        for value in (*model.graph.inputs, *model.graph.outputs)
        for dim in (value.shape.dims if value.shape is not None else ())
        if isinstance(dim, int) and dim < 0
    ]
    if illegal:
        yield Blocker(
            "illegal dims in declared shapes",
            len(illegal),
            tuple(illegal),
            "they are taken as dynamic: --input-shape gives a size",
        )


def _node_blockers(model: ir.Model) -> Iterator[Blocker]:
    local = {(domain, name) for domain, name, _ in model.functions}
    custom, random = [], []
    for node in all_nodes(model):
        if (node.domain, node.op_type) in local:
            continue
        if not onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain):
            custom.append(op_name(node))
        elif ops.is_standard(node, *ops.RANDOM):
            random.append(node.name or op_name(node))
    if custom:
        yield Blocker(
            "operators that onnx has no schema for",
            len(custom),
            tuple(f"{name} x{times}" for name, times in Counter(custom).most_common()),
            "they pass through as they are, and no shape is known behind them",
        )
    if random:
        yield Blocker(
            "random operators", len(random), tuple(random), "they and what they feed are not folded"
        )


def _shape_blockers(model: ir.Model, inferred: ir.Model) -> Iterator[Blocker]:
    unknown = [
        value.name or ""
        for node in all_nodes(inferred)
        for value in node.outputs
        if value.shape is None and value.name and not _has_no_shape(value.type)
    ]
    if unknown:
        yield Blocker(
            "values whose number of dims is not known",
            len(unknown),
            tuple(unknown),
            "rules that need it stay out: --input-shape or --dim may settle it",
        )
    wrong = list(_contradictions(model.graph.outputs, inferred.graph.outputs))
    if wrong:
        yield Blocker(
            "declared output shapes that can't be",
            len(wrong),
            tuple(wrong),
            "the declaration stays as it is and is not trusted",
        )


def _has_no_shape(type_: ir.TypeProtocol | None) -> bool:
    return type_ is not None and not isinstance(type_, ir.TensorType | ir.SparseTensorType)


def _contradictions(declared: Sequence[ir.Value], inferred: Sequence[ir.Value]) -> Iterator[str]:
    for value, other in zip(declared, inferred, strict=True):
        before, after = _sizes(value), _sizes(other)
        if before is None or after is None:
            continue
        clash = any(a != b for a, b in zip(before, after, strict=False) if a and b and a > 0)
        if len(before) != len(after) or clash:
            yield f"{value.name}: {_shape_text(value)}, really {_shape_text(other)}"


def _sizes(value: ir.Value) -> list[int | None] | None:
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape.dims]


def _shape_text(value: ir.Value) -> str:
    return shape_text(_port(value).shape)


def shape_text(shape: tuple[int | str, ...] | None) -> str:
    """ "[1, batch]", or "of unknown rank"."""
    return "of unknown rank" if shape is None else f"[{', '.join(map(str, shape))}]"
