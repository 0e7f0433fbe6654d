"""Applies a plan: puts the pairs in and turns weights and biases into codes. Makes no choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import BadInput
from onnxopt.quantize.plan import ABSORBED, absorbed_output, bias_behind, grid_of
from onnxopt.quantize.records import Grid, QuantPlan, Range
from onnxopt.quantize.targets import TARGETS
from onnxopt.quantize.units import is_dequantize
from onnxopt.rewrite.hit import NodeView
from onnxopt.rewrite.names import Names
from onnxopt.rewrite.specs import QuantSpec, Role

Array = np.ndarray[Any, np.dtype[Any]]

_TYPES = {
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "uint16": ir.DataType.UINT16,
    "int32": ir.DataType.INT32,
}


def insert(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    codes: Mapping[str, tuple[Array, Array]] | None = None,
    biases: Mapping[str, Array] | None = None,
) -> None:
    """Carry out `plan` on a float model, in place.

    Args:
        model: The model that the plan was made for.
        plan: The plan.
        specs: How each operator is quantized.
        codes: By node name, int8 codes of its weight and their float32 scales along its channel
            axis; rounded to nearest where a node is missing.
        biases: By node name, a float bias to use in the place of the model's (as bias correction
            gives it).

    Raises:
        BadInput: The plan names a node or value that the model does not have.
    """
    _Inserter(model, plan, specs, codes or {}, biases or {}).run()


def nearest_codes(weight: Array, axis: int, *, limit: int = 127) -> tuple[Array, Array]:
    """Symmetric int8 codes per channel, rounded to nearest, and their float32 scales."""
    moved = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    largest = np.abs(moved).max(axis=1)
    scale = np.where(largest > 0, largest / limit, 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    codes = np.rint(weight / scale.reshape(shape).astype(np.float64))
    return np.clip(codes, -limit, limit).astype(np.int8), scale


class _Inserter:
    def __init__(
        self,
        model: ir.Model,
        plan: QuantPlan,
        specs: Mapping[str, QuantSpec],
        codes: Mapping[str, tuple[Array, Array]],
        biases: Mapping[str, Array],
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._plan = plan
        self._specs = specs
        self._codes = codes
        self._biases = biases
        self._names = Names([model.graph, *model.graph.subgraphs()])
        self._target = TARGETS[plan.target]
        # The standard operators take codes of 16 bits from opset 21 on only.
        wide = any(grid.dtype == "uint16" for grid in plan.grids.values())
        old = (model.graph.opset_imports.get("") or 0) < 21
        self._domain = "com.microsoft" if wide and old else ""
        if self._domain:
            model.graph.opset_imports.setdefault(self._domain, 1)
        names = {choice.node for choice in plan.nodes if choice.quantize}
        self._chosen = {node for node in model.graph if node.name in names}

    def run(self) -> None:
        chosen = {choice.node for choice in self._plan.nodes if choice.quantize}
        nodes = [node for node in self._graph if node in self._chosen]
        missing = chosen - {node.name for node in nodes}
        if missing:
            raise BadInput(
                f"the plan names the node {min(missing)!r}, which the model does not have",
                hint="make the plan anew for this model",
            )
        made = {absorbed_output(value) for node in nodes for value in node.outputs if value.name}
        hidden = [node for node in self._graph if self._looks_quantized(node)]
        for node in nodes:
            self._constants(node, self._specs[node.op_type])
        values = self._values()
        missing = set(self._plan.grids) - set(values)
        if missing:
            raise BadInput(f"the plan has a grid for {min(missing)!r}, which the model lacks")
        for name, grid in self._plan.grids.items():
            whole = values[name] in made and not self._target.inputs_only
            self._pair(values[name], grid, whole=whole)
        for node in hidden:
            self._widen(node)

    def _values(self) -> dict[str, ir.Value]:
        made = [value for node in self._graph for value in node.outputs]
        return {value.name or "": value for value in (*self._graph.inputs, *made)}

    def _constants(self, node: ir.Node, spec: QuantSpec) -> None:
        """Weight and bias of a product, constant operands of the rest."""
        view = NodeView(node)
        if spec.role is Role.PRODUCT and spec.weight is not None and spec.weight_axis is not None:
            axis = spec.weight_axis(view)
            weight = ops.constant(node.inputs[spec.weight])
            source = node.inputs[0]
            if weight is None or source is None:
                return
            codes, scale = self._codes.get(node.name or "") or nearest_codes(weight.numpy(), axis)
            old = node.inputs[spec.weight]
            assert old is not None
            node.replace_input_with(
                spec.weight, self._dequantized(node, old.name or "w", codes, scale, "int8", axis)
            )
            self._bias(node, spec, self._plan.grids[source.name or ""].scale, scale)
            return
        for slot in (spec.data or range(len(node.inputs))) if spec.role is Role.ARITHMETIC else ():
            operand = node.inputs[slot]
            tensor = ops.constant(operand)
            if tensor is not None and operand is not None:
                codes, grid = _constant_codes(tensor.numpy(), self._target.dtype)
                node.replace_input_with(
                    slot,
                    self._dequantized(
                        node, operand.name or "c", codes, np.float32(grid.scale), grid.dtype,
                        zero_point=grid.zero_point,
                    ),
                )  # fmt: skip

    def _bias(self, node: ir.Node, spec: QuantSpec, source_scale: float, scale: Array) -> None:
        """An int32 bias with scale x times scale w, on the node or on the Add behind a MatMul."""
        if self._target.float_bias:
            self._float_bias(node, spec)
            return
        holder, slot = node, spec.bias
        if slot is None:
            found = bias_behind(node)
            if found is None:
                return
            holder, slot = found
        given = self._biases.get(node.name or "")
        operand = holder.inputs[slot] if slot < len(holder.inputs) else None
        tensor = ops.constant(operand)
        if tensor is None and given is None:
            return
        bias = given if given is not None else np.asarray(tensor.numpy() if tensor else 0.0)
        steps = scale.astype(np.float64) * source_scale
        codes = np.clip(np.rint(bias.astype(np.float64).reshape(-1) / steps), -(2**31), 2**31 - 1)
        name = (operand.name if operand is not None else None) or f"{node.name}_bias"
        value = self._dequantized(
            holder, name, codes.astype(np.int32), steps.astype(np.float32), "int32", 0
        )
        if slot >= len(holder.inputs):
            holder.resize_inputs(slot + 1)
        holder.replace_input_with(slot, value)

    def _float_bias(self, node: ir.Node, spec: QuantSpec) -> None:
        """Write a corrected bias as floats."""
        given = self._biases.get(node.name or "")
        found = (node, spec.bias) if spec.bias is not None else bias_behind(node)
        if given is None or found is None:
            return
        holder, slot = found
        operand = holder.inputs[slot] if slot < len(holder.inputs) else None
        name = (operand.name if operand is not None else None) or f"{node.name}_bias"
        if slot >= len(holder.inputs):
            holder.resize_inputs(slot + 1)
        bias = np.asarray(given, np.float32)
        holder.replace_input_with(slot, self._initializer(name, bias, ir.DataType.FLOAT))

    def _pair(self, value: ir.Value, grid: Grid, *, whole: bool) -> None:
        """Let readers of `value` read it through QuantizeLinear and DequantizeLinear.

        All of them do where an integer kernel writes the value, as it must not write both; else
        only those that run in integers.
        """
        name = value.name or ""
        users = list(value.uses())
        integer = [use for use in users if use.node in self._chosen]
        if not whole and integer:
            users = integer
        slots = [i for i, output in enumerate(self._graph.outputs) if output is value]
        result = self._pair_nodes(value, grid)
        for node, index in users:
            node.replace_input_with(index, result)
        if not whole and integer:
            return
        for slot in slots:
            self._graph.outputs[slot] = result
            result.name, value.name = name, self._names.value(f"{name}_float")
            for key, item in value.meta.items():
                result.meta[key] = item

    def _pair_nodes(self, value: ir.Value, grid: Grid) -> ir.Value:
        """A new pair behind the value; what comes out of it."""
        name = value.name or ""
        parameters = self._parameters(name, np.float32(grid.scale), grid.zero_point, grid.dtype)
        quantize = ir.Node(
            self._domain, "QuantizeLinear", [value, *parameters], name=f"{name}_quantize"
        )
        codes = quantize.outputs[0]
        codes.name = self._names.value(f"{name}_quantized")
        codes.type = ir.TensorType(_TYPES[grid.dtype])
        dequantize = ir.Node(
            self._domain, "DequantizeLinear", [codes, *parameters], name=f"{name}_dequantize"
        )
        result = dequantize.outputs[0]
        result.name = self._names.value(f"{name}_dequantized")
        result.type, codes.shape, result.shape = value.type, value.shape, value.shape
        producer = value.producer()
        if producer is None:
            first = self._graph[0]
            self._graph.insert_before(first, [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        return result

    def _looks_quantized(self, node: ir.Node) -> bool:
        """Whether a float product will stand between pairs.

        onnxruntime takes it for one whose weights were forgotten, and rounds them, per tensor.
        """
        if node in self._chosen or not ops.is_standard(node, *_COMPLETED):
            return False
        source = node.inputs[0]
        if source is None or (source.name or "") not in self._plan.grids:
            return False
        value = node.outputs[0]
        while len(value.uses()) == 1 and not value.is_graph_output():
            if (value.name or "") in self._plan.grids:
                return True
            reader = next(iter(value.uses())).node
            if not ops.is_standard(reader, *ABSORBED):
                return False
            value = reader.outputs[0]
        return (value.name or "") in self._plan.grids

    def _widen(self, node: ir.Node) -> None:
        """Let a float product read codes with a scale for each channel, all of them the same.

        onnxruntime completes products only where the scale of what they read is a scalar.
        """
        value = node.inputs[0]
        dequantize = None if value is None else value.producer()
        weight = ops.constant(node.inputs[1])
        if dequantize is None or not is_dequantize(dequantize) or weight is None:
            return
        name = dequantize.inputs[0].name or "" if dequantize.inputs[0] is not None else ""
        channels, axis = _read_channels(node, tuple(weight.shape.numpy()))
        scale, zero = (ops.constant(each) for each in dequantize.inputs[1:3])
        if scale is None or zero is None or scale.size != 1:
            return
        spread = [np.full(channels, each.numpy().reshape(-1)[0]) for each in (scale, zero)]
        parameters = self._parameters(name, spread[0], spread[1], spread[1].dtype.name)
        own = ir.Node(
            self._domain, "DequantizeLinear", [dequantize.inputs[0], *parameters],
            [ir.AttrInt64("axis", axis)], name=self._names.node(f"{node.name}_dequantize"),
        )  # fmt: skip
        result = own.outputs[0]
        result.name = self._names.value(f"{node.name}_dequantized")
        assert value is not None
        result.type, result.shape = value.type, value.shape
        self._graph.insert_before(node, own)
        node.replace_input_with(0, result)
        if not value.uses() and not value.is_graph_output():
            self._graph.remove(dequantize, safe=True)

    def _parameters(self, name: str, scale: Any, zero_point: Any, dtype: str) -> list[ir.Value]:
        points = np.asarray(zero_point, dtype=dtype)
        return [
            self._initializer(f"{name}_scale", np.asarray(scale, np.float32), ir.DataType.FLOAT),
            self._initializer(f"{name}_zero_point", points, _TYPES[dtype]),
        ]

    def _dequantized(
        self,
        reader: ir.Node,
        name: str,
        codes: Array,
        scale: Any,
        dtype: str,
        axis: int | None = None,
        *,
        zero_point: int = 0,
    ) -> ir.Value:
        points = np.full(np.shape(scale), zero_point)
        stored = self._initializer(f"{name}_codes", codes, _TYPES[dtype])
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node(
            self._domain, "DequantizeLinear",
            [stored, *self._parameters(name, scale, points, dtype)], attributes,
            name=self._names.node(f"{name}_dequantize"),
        )  # fmt: skip
        node.outputs[0].name = self._names.value(f"{name}_dequantized")
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(codes.shape)
        self._graph.insert_before(reader, node)
        return node.outputs[0]

    def _initializer(self, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
        unique = self._names.value(name)
        tensor = ir.tensor(array, dtype=dtype, name=unique)
        value = ir.Value(
            name=unique, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value


_COMPLETED = ("Conv", "ConvTranspose", "Gemm")
"""Float products that onnxruntime quantizes where they stand between pairs."""


def _read_channels(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of channels that a product with a weight of this shape reads, and their axis."""
    view = NodeView(node)
    if node.op_type == "Conv":
        return shape[1] * int(view.attr("group", 1)), 1
    if node.op_type == "ConvTranspose":
        return shape[0], 1
    transposed = bool(view.attr("transA"))
    return shape[1] if view.attr("transB") else shape[0], 0 if transposed else 1


def _constant_codes(array: Array, dtype: str) -> tuple[Array, Grid]:
    found = Range(float(array.min(initial=0)), float(array.max(initial=0)))
    grid = grid_of(found, dtype=dtype)
    codes = np.rint(array.astype(np.float64) / grid.scale) + grid.zero_point
    limits = np.iinfo(dtype)
    return np.clip(codes, limits.min, limits.max).astype(dtype), grid
