"""A BERT as PyTorch exports one: run-time shapes, LayerNorm and Gelu spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 16
_CHUNK = 1 << 22


class Weights(Protocol):
    """Where the weights of a graph go."""

    def add(self, name: str, shape: Sequence[int], fill: float | None) -> TensorProto:
        """A float32 initializer of one value, or of small random ones where `fill` is None."""
        ...


class Inline:
    """Weights inside the model's file."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def add(self, name: str, shape: Sequence[int], fill: float | None) -> TensorProto:
        values = self.random.standard_normal(shape) * 0.02 if fill is None else np.full(shape, fill)
        return numpy_helper.from_array(values.astype(np.float32), name)


class External:
    """Weights written one after the other to a file beside the model, never all in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.random = np.random.default_rng(0)
        self.offset = 0
        path.write_bytes(b"")

    def add(self, name: str, shape: Sequence[int], fill: float | None) -> TensorProto:
        count = int(np.prod(shape))
        with self.path.open("ab") as file:
            for start in range(0, count, _CHUNK):
                size = min(_CHUNK, count - start)
                chunk = np.full(size, fill or 0.0, np.float32)
                if fill is None:
                    chunk = self.random.standard_normal(size, np.float32) * np.float32(0.02)
                file.write(chunk.tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self.path.name, "offset": self.offset, "length": 4 * count}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.offset += 4 * count
        return tensor


@dataclass(frozen=True, slots=True)
class Sizes:
    """The dimensions of a BERT; the defaults are those of BERT-large."""

    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    vocabulary: int = 30522
    positions: int = 512


@dataclass(slots=True)
class Builder:
    """Collects nodes and initializers; every method gives the name of its result."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{op_type}_{len(self.nodes)}"
        output = f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def weight(self, name: str, *shape: int, fill: float | None = None) -> str:
        self.initializers.append(self.weights.add(name, shape, fill))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        product = self.op("MatMul", x, self.weight(f"onnx::{name}.weight", inputs, outputs))
        return self.op("Add", self.weight(f"{name}.bias", outputs), product)

    def layer_norm(self, x: str, name: str, width: int) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", centred, self.constant(2.0)), axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(1e-12)))
        normal = self.op("Div", centred, deviation)
        scaled = self.op("Mul", normal, self.weight(f"{name}.weight", width, fill=1.0))
        return self.op("Add", scaled, self.weight(f"{name}.bias", width, fill=0.0))

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.constant(2.0**0.5)))
        grown = self.op("Mul", x, self.op("Add", erf, self.constant(1.0)))
        return self.op("Mul", grown, self.constant(0.5))

    def size(self, x: str, axis: int) -> str:
        """The size of an axis as a tensor of one element, found while running."""
        size = self.op("Gather", self.op("Shape", x), self.constant(axis, np.int64), axis=0)
        return self.op("Unsqueeze", size, self.constant([0], np.int64))

    def reshape(self, x: str, *tail: int) -> str:
        """The first two axes kept as they come, the rest given."""
        sizes = [self.constant([size], np.int64) for size in tail]
        shape = self.op("Concat", self.size(x, 0), self.size(x, 1), *sizes, axis=0)
        return self.op("Reshape", x, shape)

    def attention(self, x: str, mask: str, name: str, sizes: Sizes) -> str:
        width = sizes.hidden // sizes.heads
        query, key, value = (
            self.reshape(
                self.linear(x, f"{name}.self.{part}", sizes.hidden, sizes.hidden),
                sizes.heads,
                width,
            )
            for part in ("query", "key", "value")
        )
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        value = self.op("Transpose", value, perm=[0, 2, 1, 3])
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 2, 3, 1]))
        scores = self.op("Add", self.op("Div", scores, self.constant(width**0.5)), mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        mixed = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.reshape(mixed, sizes.hidden)

    def layer(self, x: str, mask: str, name: str, sizes: Sizes) -> str:
        width = sizes.hidden
        mixed = self.attention(x, mask, f"{name}.attention", sizes)
        mixed = self.linear(mixed, f"{name}.attention.output.dense", width, width)
        x = self.layer_norm(self.op("Add", mixed, x), f"{name}.attention.output.LayerNorm", width)
        inner = self.gelu(self.linear(x, f"{name}.intermediate.dense", width, 4 * width))
        inner = self.linear(inner, f"{name}.output.dense", 4 * width, width)
        return self.layer_norm(self.op("Add", inner, x), f"{name}.output.LayerNorm", width)

    def embeddings(self, ids: str, types: str, sizes: Sizes) -> str:
        words = self.weight("embeddings.word.weight", sizes.vocabulary, sizes.hidden)
        kinds = self.weight("embeddings.token_type.weight", 2, sizes.hidden)
        places = self.weight("embeddings.position.weight", sizes.positions, sizes.hidden)
        order = self.constant(np.arange(sizes.positions)[None], np.int64)
        start, axis = self.constant([0], np.int64), self.constant([1], np.int64)
        used = self.op("Slice", order, start, self.size(ids, 1), axis)
        x = self.op("Add", self.op("Gather", words, ids), self.op("Gather", kinds, types))
        x = self.op("Add", x, self.op("Gather", places, used))
        return self.layer_norm(x, "embeddings.LayerNorm", sizes.hidden)

    def mask(self, given: str) -> str:
        """0 where attention may look, the least float where it may not."""
        wide = self.op("Unsqueeze", given, self.constant([1], np.int64))
        wide = self.op("Unsqueeze", wide, self.constant([2], np.int64))
        wide = self.op("Cast", wide, to=TensorProto.FLOAT)
        hidden = self.op("Sub", self.constant(1.0), wide)
        return self.op("Mul", hidden, self.constant(np.finfo(np.float32).min))


def bert(weights: Weights, sizes: Sizes) -> onnx.ModelProto:
    """The model, with batch and sequence left open."""
    build = Builder(weights)
    names = ("input_ids", "attention_mask", "token_type_ids")
    x = build.embeddings("input_ids", "token_type_ids", sizes)
    mask = build.mask("attention_mask")
    for index in range(sizes.layers):
        x = build.layer(x, mask, f"encoder.layer.{index}", sizes)
    first = build.op("Gather", x, build.constant(0, np.int64), axis=1)
    weight = build.weight("pooler.dense.weight", sizes.hidden, sizes.hidden)
    bias = build.weight("pooler.dense.bias", sizes.hidden)
    pooled = build.op("Tanh", build.op("Gemm", first, weight, bias, transB=1))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in names
    ]
    shapes: dict[str, list[int | str | None]] = {
        x: ["batch", "sequence", sizes.hidden],
        pooled: ["batch", sizes.hidden],
    }
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(build.nodes, "bert", inputs, outputs, build.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="pytorch")


def write_bert_large(folder: Path) -> Path:
    """BERT-large with random weights, 1.3 GB of them in a file beside the model."""
    path = folder / "model.onnx"
    onnx.save(bert(External(folder / "model.onnx.data"), Sizes()), path)
    return path
