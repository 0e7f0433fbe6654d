"""Small models with Q/DQ pairs, drawn node by node: what the tests of the quantizer look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

ZERO = {np.uint8: 128, np.int8: 0, np.uint16: 32768, np.int16: 0}


class Drawing:
    """A graph being drawn: every method adds something and gives back the name of its value.

    Weights are random numbers of one seed; scales are plausible and otherwise arbitrary.
    """

    def __init__(self, opset: int = 21) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.random = np.random.default_rng(0)

    def name(self, stem: str) -> str:
        return f"{stem}{len(self.nodes) + len(self.constants)}"

    def input(self, *shape: int | str, dtype: int = TensorProto.FLOAT) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, *names: str, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs += [helper.make_tensor_value_info(name, dtype, None) for name in names]

    def constant(self, array: Any) -> str:
        name = self.name("k")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape: int, spread: float = 0.1) -> str:
        """A float constant."""
        return self.constant((self.random.standard_normal(shape) * spread).astype(np.float32))

    def node(self, op_type: str, *inputs: str, count: int = 1, **attributes: Any) -> Any:
        """One output's name, or a tuple of them where `count` is not 1."""
        outputs = [self.name(op_type.lower()) + (f"_{i}" if i else "") for i in range(count)]
        domain = "com.microsoft" if attributes.pop("contrib", False) else ""
        node = helper.make_node(
            op_type, inputs, outputs, name=f"the_{outputs[0]}", domain=domain, **attributes
        )
        self.nodes.append(node)
        return outputs[0] if count == 1 else tuple(outputs)

    def parameters(self, scale: Any = 0.02, zero: Any = None, dtype: Any = np.uint8) -> list[str]:
        zero = ZERO[dtype] if zero is None else zero
        return [self.constant(np.float32(scale)), self.constant(np.asarray(zero, dtype))]

    def quantize(self, value: str, scale: Any = 0.02, zero: Any = None, dtype: Any = np.uint8):
        return self.node("QuantizeLinear", value, *self.parameters(scale, zero, dtype))

    def dequantize(self, value: str, scale: Any = 0.02, zero: Any = None, dtype: Any = np.uint8):
        return self.node("DequantizeLinear", value, *self.parameters(scale, zero, dtype))

    def pair(self, value: str, scale: Any = 0.02, zero: Any = None, dtype: Any = np.uint8) -> str:
        """The value after Q and DQ."""
        both = self.parameters(scale, zero, dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, *both), *both)

    def weight(
        self, *shape: int, dtype: Any = np.int8, axis: int | None = None, scale: float = 0.01
    ) -> str:
        """A quantized constant behind DQ, per tensor or per channel of `axis`."""
        low, high = (64, 192) if dtype == np.uint8 else (-64, 64)
        codes = self.constant(self.random.integers(low, high, shape).astype(dtype))
        middle = 128 if dtype == np.uint8 else 0
        if axis is None:
            return self.dequantize(codes, scale, middle, dtype)
        count = shape[axis]
        scales = (scale * (1 + self.random.random(count))).astype(np.float32)
        zeros = np.full(count, middle, dtype)
        both = [self.constant(scales), self.constant(zeros)]
        return self.node("DequantizeLinear", codes, *both, axis=axis)

    def bias(self, count: int, scale: Any = 0.02 * 0.01) -> str:
        """An int32 constant behind DQ."""
        codes = self.constant(self.random.integers(-999, 999, count).astype(np.int32))
        scales = np.asarray(scale, np.float32)
        both = [self.constant(scales), self.constant(np.zeros(scales.shape, np.int32))]
        axis = {"axis": 0} if scales.ndim else {}
        return self.node("DequantizeLinear", codes, *both, **axis)

    def model(self, *outputs: str) -> onnx.ModelProto:
        self.output(*outputs)
        graph = helper.make_graph(self.nodes, "drawn", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


reads_the_table = pytest.mark.skipif(
    tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 31),
    reason="the facts were read off onnxruntime 1.31; older ones place some operators otherwise",
)
