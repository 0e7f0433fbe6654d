"""Passes that are wrong on purpose, each with the word that the report of it must contain.

They claim to be close, as an honest mistake would. `faults_for` gives those that a model has room
for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.config import Exactness
from onnxopt.passes.base import Context, PassResult

Edit = Callable[[ir.Model], object]


@dataclass(frozen=True, slots=True)
class Planted:
    """A pass that breaks a promise. `edit` gives False where the model has no room for it."""

    name: str
    word: str
    edit: Edit

    def run(self, model: ir.Model, context: Context) -> PassResult:
        assert self.edit(model) is not False, f"{self.name} has no room in this model"
        return PassResult(changed=True, hits={self.name: 1}, exactness=Exactness.CLOSE)


FAULTS: list[Planted] = []


def planted(word: str) -> Callable[[Edit], Edit]:
    """Add the function to the faults; the report of its pass must contain `word`."""

    def add(edit: Edit) -> Edit:
        FAULTS.append(Planted(edit.__name__, word, edit))
        return edit

    return add


def faults_for(model: ir.Model) -> list[Planted]:
    """The faults that `model` has room for."""
    return [fault for fault in FAULTS if _has_room(fault, model.clone())]


def _has_room(fault: Planted, model: ir.Model) -> bool:
    try:
        return fault.edit(model) is not False
    except ValueError:
        return True


def _float_output(model: ir.Model) -> ir.Value:
    return next(v for v in model.graph.outputs if v.dtype == ir.DataType.FLOAT)


def _find(model: ir.Model, *op_types: str) -> ir.Node | None:
    return next((node for node in model.graph if node.op_type in op_types), None)


def _behind_output(model: ir.Model, make: Callable[[ir.Value], list[ir.Node]]) -> ir.Value:
    """Let a float output be what the last of the nodes made from its value gives."""
    graph = model.graph
    old = _float_output(model)
    nodes = make(old)
    new, name = nodes[-1].outputs[0], old.name
    new.type, new.shape = old.type, old.shape
    old.name = f"{name}_before"
    new.name = name
    graph.extend(nodes)
    graph.outputs[list(graph.outputs).index(old)] = new
    return new


def _constant(model: ir.Model, number: float) -> ir.Value:
    tensor = ir.tensor(np.array(number, np.float32))
    node = ir.node("Constant", [], {"value": tensor})
    model.graph.insert_before(model.graph[0], node)
    return node.outputs[0]


@planted("changed")
def scale_off_by_a_thousandth(model: ir.Model) -> None:
    scale = _constant(model, 1.001)
    _behind_output(model, lambda old: [ir.node("Mul", [old, scale])])


@planted("changed")
def bias_off_a_little(model: ir.Model) -> None:
    bias = _constant(model, 0.01)
    _behind_output(model, lambda old: [ir.node("Add", [old, bias])])


@planted("is gone")
def dropped_output(model: ir.Model) -> None:
    del model.graph.outputs[-1]


@planted("is new")
def added_output(model: ir.Model) -> None:
    model.graph.outputs.append(model.graph[0].outputs[0])


@planted("order of the outputs")
def swapped_outputs(model: ir.Model) -> object:
    outputs = model.graph.outputs
    if len(outputs) < 2:
        return False
    outputs[:] = [*reversed(list(outputs))]
    return None


@planted("changed")
def swapped_values_behind_the_names(model: ir.Model) -> object:
    outputs = model.graph.outputs
    if len(outputs) < 2 or outputs[0].type != outputs[1].type:
        return False
    first, second = outputs[0], outputs[1]
    if _dims(first) != _dims(second):
        return False
    names = (first.name, second.name)
    first.name, second.name = "aside", names[0]
    first.name = names[1]
    outputs[:] = [second, first, *list(outputs)[2:]]
    return None


def _dims(value: ir.Value) -> list[str]:
    return [str(dim) for dim in value.shape or ()]


@planted("changed")
def wrong_axis(model: ir.Model) -> object:
    node = _find(model, "Softmax")
    if node is None:
        return False
    node.attributes["axis"] = ir.AttrInt64("axis", 0)
    return None


@planted("order of the inputs")
def swapped_inputs(model: ir.Model) -> object:
    inputs = model.graph.inputs
    if sum(not value.is_initializer() for value in inputs) < 2:
        return False
    inputs[:] = [*reversed(list(inputs))]
    return None


@planted("is now called")
def renamed_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "renamed"


@planted("changed its type")
def declared_output_dtype(model: ir.Model) -> None:
    new = _behind_output(model, lambda old: [ir.node("Cast", [old], {"to": 10})])
    new.type = ir.TensorType(ir.DataType.FLOAT16)


@planted("not valid ONNX")
def undeclared_output_dtype(model: ir.Model) -> None:
    _behind_output(model, lambda old: [ir.node("Cast", [old], {"to": 10})])


@planted("changed")
def rounded_through_half(model: ir.Model) -> None:
    half = {"to": int(ir.DataType.FLOAT16)}
    full = {"to": int(ir.DataType.FLOAT)}

    def round_trip(old: ir.Value) -> list[ir.Node]:
        there = ir.node("Cast", [old], half)
        return [there, ir.node("Cast", [there.outputs[0]], full)]

    _behind_output(model, round_trip)


@planted("changed its shape")
def fixed_dim(model: ir.Model) -> object:
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                value.shape = value.shape.copy()
                value.shape[axis] = 1
                return None
    return False


@planted("changed")
def bypassed_node(model: ir.Model) -> object:
    node = _find(model, "Relu")
    if node is None:
        return False
    ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
    model.graph.remove(node)
    return None


@planted("changed")
def changed_weight(model: ir.Model) -> object:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) >= 2:
            array = np.array(tensor.numpy())
            array[..., 0] += 3
            value.const_value = ir.tensor(array, name=value.name)
            return None
    return False


@planted("NaN")
def not_a_number(model: ir.Model) -> None:
    # sqrt(-1 - y * y) * 0 looks like nothing to add, and is NaN.
    one = _constant(model, -1)

    def poison(old: ir.Value) -> list[ir.Node]:
        square = ir.node("Mul", [old, old])
        below = ir.node("Sub", [one, square.outputs[0]])
        root = ir.node("Sqrt", [below.outputs[0]])
        return [square, below, root, ir.node("Add", [old, root.outputs[0]])]

    _behind_output(model, poison)


@planted("not valid ONNX")
def dangling_value(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.inputs)
    node.replace_input_with(0, ir.Value(name="nowhere"))


@planted("not valid ONNX")
def name_made_twice(model: ir.Model) -> None:
    first, second = list(model.graph)[:2]
    second.outputs[0].name = first.outputs[0].name


@planted("not valid ONNX")
def cycle(model: ir.Model) -> None:
    nodes = list(model.graph)
    first = next(node for node in nodes if node.inputs)
    first.replace_input_with(0, nodes[-1].outputs[0])


@planted("not valid ONNX")
def unknown_operator(model: ir.Model) -> None:
    model.graph[0].op_type = "Rleu"


@planted("not valid ONNX")
def operator_newer_than_the_opset(model: ir.Model) -> None:
    attributes = {"approximate": "none"}
    _behind_output(model, lambda old: [ir.node("Gelu", [old], attributes)])
    model.graph.opset_imports[""] = min(model.graph.opset_imports[""], 19)


@planted("does not load")
def operator_that_the_runtime_lacks(model: ir.Model) -> None:
    model.graph.opset_imports["acme"] = 1
    _behind_output(model, lambda old: [ir.node("Polish", [old], domain="acme")])


@planted("metadata")
def forgotten_metadata(model: ir.Model) -> object:
    if not model.metadata_props:
        return False
    model.metadata_props.clear()
    return None


@planted("ValueError: half way")
def raised_half_way(model: ir.Model) -> None:
    model.graph[0].op_type = "Abs"
    raise ValueError("half way")
