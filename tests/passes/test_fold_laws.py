"""Laws over generated shape arithmetic: folding changes no output, at any size, and settles."""

from __future__ import annotations

import random

import numpy as np
import onnx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt import io
from onnxopt.config import Options
from onnxopt.errors import RuntimeFailed
from onnxopt.passes import shapes
from onnxopt.passes.base import Context
from onnxopt.passes.fold import FoldPass
from onnxopt.runtime.sessions import Session

SIZES = [(1, 1, 1), (2, 3, 4), (4, 4, 4), (6, 1, 2), (0, 2, 3), (2, 0, 3)]
MOST_ELEMENTS = 6


class Sketch:
    """A model under construction: vectors (with lengths) and scalars of int64, tensors (ranks)."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.vectors: list[tuple[str, int]] = []
        self.scalars: list[str] = []
        self.tensors = [("x", 3), ("z", 2)]
        self.steps = [
            self.shape, self.gather, self.slice, self.unsqueeze, self.concat, self.arithmetic,
            self.where, self.product, self.reshape, self.expand, self.cut, self.transpose,
        ]  # fmt: skip

    def model(self) -> onnx.ModelProto:
        self.shape()
        for _ in range(self.pick.randrange(4, 22)):
            self.pick.choice(self.steps)()
        read = {name for node in self.nodes for name in node.input}
        outputs = [node.output[0] for node in self.nodes if node.output[0] not in read]
        inputs = {"x": ["a", "b", self.pick.choice(["a", "c", 4])], "z": ["a", "c"]}
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.constants,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )  # fmt: skip

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def number(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def shape(self) -> None:
        tensor, rank = self.pick.choice(self.tensors)
        self.vectors.append((self.node("Shape", tensor), rank))

    def gather(self) -> None:
        vector, length = self.pick.choice(self.vectors)
        if length:
            index = self.number(self.pick.randrange(-length, length))
            self.scalars.append(self.node("Gather", vector, index))

    def slice(self) -> None:
        vector, length = self.pick.choice(self.vectors)
        start = self.pick.randint(0, length)
        stop = self.pick.randint(start, length)
        made = self.node("Slice", vector, self.number([start]), self.number([stop]))
        self.vectors.append((made, stop - start))

    def unsqueeze(self) -> None:
        if self.scalars:
            scalar = self.pick.choice(self.scalars)
            self.vectors.append((self.node("Unsqueeze", scalar, self.number([0])), 1))

    def concat(self) -> None:
        parts = [self.part() for _ in range(self.pick.randint(1, 3))]
        length = sum(length for _, length in parts)
        if length <= MOST_ELEMENTS:
            made = self.node("Concat", *(name for name, _ in parts), axis=0)
            self.vectors.append((made, length))

    def part(self) -> tuple[str, int]:
        if self.pick.random() < 0.6:
            return self.pick.choice(self.vectors)
        return self.number([self.pick.choice([1, 2, 3, 4, -1, 0])]), 1

    def arithmetic(self) -> None:
        operator = self.pick.choice(["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max"])
        if self.scalars:
            divides = operator in ("Div", "Mod")
            other = self.number(self.pick.choice([1, 2, 3] if divides else [1, 2, -1]))
            if not divides and self.pick.random() < 0.4:
                other = self.pick.choice(self.scalars)
            self.scalars.append(self.node(operator, self.pick.choice(self.scalars), other))

    def where(self) -> None:
        if self.scalars:
            one, other, third = (self.pick.choice(self.scalars) for _ in range(3))
            operator = self.pick.choice(["Equal", "Less", "GreaterOrEqual"])
            condition = self.node(operator, one, self.number(self.pick.choice([-1, 0, 1, 2])))
            self.scalars.append(self.node("Where", condition, other, third))

    def product(self) -> None:
        vector, _ = self.pick.choice(self.vectors)
        self.scalars.append(self.node("ReduceProd", vector, keepdims=0))

    def reshape(self) -> None:
        vector, length = self.pick.choice(self.vectors)
        tensor, _ = self.pick.choice(self.tensors)
        self.tensors.append((self.node("Reshape", tensor, vector), length))

    def expand(self) -> None:
        vector, length = self.pick.choice(self.vectors)
        tensor, rank = self.pick.choice(self.tensors)
        self.tensors.append((self.node("Expand", tensor, vector), max(length, rank)))

    def cut(self) -> None:
        ends = [name for name, length in self.vectors if length == 1]
        tensor, rank = self.pick.choice(self.tensors)
        if ends and rank:
            start = self.number([self.pick.choice([0, 0, 1, -2])])
            axis = self.number([self.pick.randrange(rank)])
            end = self.pick.choice(ends)
            self.tensors.append((self.node("Slice", tensor, start, end, axis), rank))

    def transpose(self) -> None:
        tensor, rank = self.pick.choice(self.tensors)
        order = list(range(rank))
        self.pick.shuffle(order)
        if order:
            self.tensors.append((self.node("Transpose", tensor, perm=order), rank))


def feeds(model: onnx.ModelProto, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    named = dict(zip("abc", sizes, strict=True))
    found = {}
    for info in model.graph.input:
        dims = [named.get(d.dim_param, d.dim_value) for d in info.type.tensor_type.shape.dim]
        found[info.name] = np.arange(np.prod(dims), dtype=np.float32).reshape(dims)
    return found


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
@example(1)
def test_folding_keeps_every_output_at_every_size(seed: int) -> None:
    proto = Sketch(seed).model()
    try:
        before = Session.open(proto, optimize=False, threads=1)
    except RuntimeFailed:
        return
    model = io.load(proto)
    context = Context(Options(max_growth=1.0), 10_000)
    FoldPass().run(model, context)
    assert not FoldPass().run(model, context).changed
    shapes.restore(model)
    after = None
    for sizes in SIZES:
        feed = feeds(proto, sizes)
        try:
            wanted = before.run(feed)
        except RuntimeFailed:
            continue
        after = after or Session.open(io.to_proto(model), optimize=False, threads=1)
        for left, right in zip(wanted, after.run(feed), strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.shape == right.shape
