"""An ONNX graph as a torch module: the nodes in order, with the weights as parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from torch.utils.flop_counter import FlopCounterMode

from onnxopt import ops
from onnxopt.distill.kernels import Call, Kernel, Tensor, Untaught, find, from_numpy
from onnxopt.distill.weights import Weight, find_weights, tensor_of
from onnxopt.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
Environment: TypeAlias = "dict[ir.Value, Any]"

_UNFOLDED = frozenset({"If", "RandomNormal", "RandomNormalLike", "RandomUniform"})


@dataclass(frozen=True, slots=True)
class _Step:
    """A node with its kernel; `bodies` are those of an If, then first; `done` is read last here."""

    node: ir.Node
    call: Call
    kernel: Kernel | None
    home: Any
    bodies: tuple[_Program, ...] = ()
    done: list[ir.Value] = field(default_factory=list)

    def run(self, values: Environment) -> None:
        if self.bodies:
            condition = self.node.inputs[0]
            assert condition is not None
            taken = self.bodies[0 if bool(values[condition]) else 1]
            results: Any = tuple(taken.run(values))
        else:
            assert self.kernel is not None
            results = self._compute(values)
        results = results if isinstance(results, tuple) else (results,)
        # Outputs that a kernel leaves out are not read: the plan would not have let it through.
        for value, result in zip(self.node.outputs, results, strict=False):
            values[value] = self._at_home(result)

    def _at_home(self, result: Any) -> Any:
        """Floats lie where the weights are; whole numbers stay, as Python reads most of them."""
        if self.home.type == "cpu" or not isinstance(result, torch.Tensor):
            return result
        return result.to(self.home) if result.is_floating_point() else result

    def _compute(self, values: Environment) -> Any:
        assert self.kernel is not None
        inputs = [None if value is None else values[value] for value in self.node.inputs]
        try:
            return self.kernel(self.call, *inputs)
        except (RuntimeError, TypeError, IndexError, ValueError, KeyError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise self.call.refuse(f"torch says: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Program:
    steps: list[_Step]
    results: Sequence[ir.Value]

    def run(self, values: Environment) -> list[Any]:
        for step in self.steps:
            step.run(values)
            for value in step.done:
                values.pop(value, None)
        return [values[value] for value in self.results]


class GraphModule(torch.nn.Module):  # type: ignore[misc]
    """The part of a model that some of its values need, with trainable weights.

    `forward` takes and gives tensors by name. Half precision is computed in float32.

    Args:
        model: The model; it is not changed.
        wanted: Names of outputs, or of any values of the main graph.
        train: Make parameters of the weights; else all constants are fixed.
        frozen: Names of constants that stay as they are.
        device: Where to compute.

    Raises:
        BadInput: There is no value of such a name.
        Untaught: An operator has no kernel; the message names all that are missing.
    """

    def __init__(
        self,
        model: ir.Model,
        wanted: Sequence[str],
        *,
        train: bool = False,
        frozen: Collection[str] = (),
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.wanted = tuple(wanted)
        self._results = [_value(model, name) for name in wanted]
        nodes = _needed(model.graph, self._results)
        _refuse_missing(model, nodes)
        self.weights = find_weights(_all_nodes(nodes), frozen) if train else []
        self.parameters_by_name = torch.nn.ParameterDict()
        for number, weight in enumerate(self.weights):
            self.parameters_by_name[str(number)] = torch.nn.Parameter(
                weight.start.to(self.device, copy=True)
            )
        opset = model.graph.opset_imports
        self._program = _Program([_step(node, opset, self.device) for node in nodes], self._results)
        self._fixed = self._constants()
        self._fold()
        _mark_done(self._program, self._fixed)

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The wanted values by name, from the tensors of the inputs by name."""
        values: Environment = dict(self._fixed)
        for value in self._fed:
            values[value] = feeds[value.name or ""]
        for weight, parameter in zip(self.weights, self.parameters(), strict=True):
            coded = weight.coding
            values[weight.value] = parameter if coded is None else coded.encode(parameter)
        return dict(zip(self.wanted, self._program.run(values), strict=True))

    def work(self, feed: Mapping[str, Any]) -> int:
        """Floating-point operations of the products in one forward pass."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self(self.tensors(feed))
        return int(counter.get_total_flops())

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """The weights by name as the model keeps them: numbers, or whole codes."""
        with torch.no_grad():
            for weight, parameter in zip(self.weights, self.parameters(), strict=True):
                if weight.coding is None:
                    yield weight.name, parameter.detach().cpu().numpy().copy()
                else:
                    codes = weight.coding.encode(parameter.to(torch.float64))
                    yield weight.name, codes.cpu().numpy()

    def tensors(self, feed: Mapping[str, Any]) -> dict[str, Tensor]:
        """The arrays of a feed as tensors on the module's device."""
        needed = {value.name for value in self._fed}
        return {
            name: _laid_out(from_numpy(array).to(self.device))
            for name, array in feed.items()
            if name in needed
        }

    def _constants(self) -> Environment:
        """The constants that are not trained, by value; floats lie on the device."""
        trained = {weight.value for weight in self.weights}
        fixed: Environment = {}
        fed: dict[ir.Value, None] = {}
        for value in _read(self._program):
            if value in trained or value in fixed or value.producer() is not None:
                continue
            tensor = tensor_of(value)
            if tensor is None:
                fed[value] = None
                continue
            held = from_numpy(tensor.numpy())
            # Shapes and axes are read by Python, which is quick on the CPU alone.
            fixed[value] = held.to(self.device) if held.is_floating_point() else held
        self._fed = [value for value in fed if value.is_graph_input()]
        return fixed

    def _fold(self) -> None:
        """Compute once what rests on fixed constants alone."""
        trained = {weight.value for weight in self.weights}
        left = []
        with torch.no_grad():
            for step in self._program.steps:
                known = all(value is None or value in self._fixed for value in step.node.inputs)
                if (
                    known
                    and step.node.outputs[0] not in trained
                    and step.node.op_type not in _UNFOLDED
                ):
                    step.run(self._fixed)
                elif step.node.outputs[0] not in trained:
                    left.append(step)
        self._program = _Program(left, self._results)
        kept = {*_read(self._program)}
        self._fixed = {value: held for value, held in self._fixed.items() if value in kept}


def _laid_out(tensor: Tensor) -> Tensor:
    """Channels last in memory, which torch's convolutions of pictures are a third faster on."""
    if tensor.dim() != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def missing_kernels(model: ir.Model, wanted: Sequence[str]) -> Counter[str]:
    """How many nodes have no kernel, by operator, among those that the wanted values need."""
    return _missing(_needed(model.graph, [_value(model, name) for name in wanted]))


def _missing(nodes: Iterable[ir.Node]) -> Counter[str]:
    absent = (
        node
        for node in _all_nodes(nodes)
        if find(node.domain, node.op_type) is None and not ops.is_standard(node, "If")
    )
    return Counter(
        node.op_type if ops.is_standard(node) else f"{node.domain}.{node.op_type}"
        for node in absent
    )


def _refuse_missing(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    missing = _missing(nodes)
    if missing:
        words = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        raise Untaught(
            f"{model.graph.name or 'the model'} can't be trained: no torch kernel for {words}",
            hint="optimize the model first, which folds and fuses many operators away; else take"
            " another student",
        )


def _value(model: ir.Model, name: str) -> ir.Value:
    for value in (*model.graph.outputs, *model.graph.inputs):
        if value.name == name:
            return value
    for node in model.graph:
        for value in node.outputs:
            if value.name == name:
                return value
    raise BadInput(
        f"the model has no value {name!r}",
        hint=f"its outputs: {', '.join(value.name or '' for value in model.graph.outputs)}",
    )


def _needed(graph: ir.Graph, results: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes that the results rest on, in the graph's order."""
    wanted = set(results)
    found = []
    for node in reversed(graph):
        if wanted.isdisjoint(node.outputs):
            continue
        found.append(node)
        wanted.update(value for value in node.inputs if value is not None)
        for body in ops.subgraphs(node):
            wanted.update(_captured(body))
    return found[::-1]


def _captured(body: ir.Graph) -> Iterator[ir.Value]:
    """Values that a body reads; its own are among them, which does no harm."""
    for node in body:
        yield from (value for value in node.inputs if value is not None)
        for inner in ops.subgraphs(node):
            yield from _captured(inner)
    yield from body.outputs


def _all_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    for node in nodes:
        yield node
        for body in ops.subgraphs(node):
            yield from _all_nodes(body)


def _step(node: ir.Node, opsets: Mapping[str, int], home: Any) -> _Step:
    kernel = find(node.domain, node.op_type)
    used = max(
        (
            place
            for place, value in enumerate(node.outputs, 1)
            if value.uses() or value.is_graph_output()
        ),
        default=1,
    )
    attributes = {
        name: attribute.value
        for name, attribute in node.attributes.items()
        if attribute.type is not ir.AttributeType.GRAPH
    }
    call = Call(
        node.name or next((value.name or "" for value in node.outputs), ""),
        node.op_type,
        opsets.get(node.domain, opsets.get("", 1)),
        attributes,
        used,
        tuple(None if value is None else _kind(value) for value in node.inputs),
    )
    bodies: tuple[_Program, ...] = ()
    if ops.is_standard(node, "If"):
        branches = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
        bodies = tuple(
            _Program(
                [_step(inner, opsets, home) for inner in _needed(body, body.outputs)], body.outputs
            )
            for body in branches
        )
    return _Step(node, call, kernel, home, bodies)


def _kind(value: ir.Value) -> ir.DataType | None:
    tensor = tensor_of(value)
    return value.dtype if tensor is None else tensor.dtype


def _read(program: _Program) -> Iterator[ir.Value]:
    """All values that a program reads from outside of its nodes or from one of them."""
    for step in program.steps:
        yield from (value for value in step.node.inputs if value is not None)
        for body in step.bodies:
            yield from _read(body)
    yield from program.results


def _mark_done(program: _Program, fixed: Collection[ir.Value]) -> None:
    """Say for each value which step reads it last, so that its memory comes free there."""
    last: dict[ir.Value, _Step] = {}
    for step in program.steps:
        last.update((value, step) for value in step.node.inputs if value is not None)
        for body in step.bodies:
            last.update((value, step) for value in _read(body))
    for value in (*fixed, *program.results):
        last.pop(value, None)
    for value, step in last.items():
        step.done.append(value)


__all__ = ["Array", "GraphModule", "Weight", "missing_kernels"]
