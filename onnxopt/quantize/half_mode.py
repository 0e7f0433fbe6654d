"""The modes `fp16` and `bf16` as `modes.Mode`s, and what the provider makes of their nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.quantize.calibrate import collect
from onnxopt.quantize.half import WORDS, half_choices
from onnxopt.quantize.half_proof import prove_half
from onnxopt.quantize.half_write import with_half
from onnxopt.quantize.proof import Proof
from onnxopt.quantize.records import Choice, Range
from onnxopt.quantize.static import Verdict
from onnxopt.runtime.sessions import Session

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_BFLOAT_TARGETS = ("generic", "tensorrt")
"""Targets that run bfloat16, as far as they can't be asked here."""


@dataclass(slots=True)
class HalfMode:
    """16-bit floats, with what must stay float32 kept; `feeds` show which numbers are too large."""

    name: str
    target: str = "cpu"
    feeds: Iterable[Feed] | None = None
    threads: int = 0
    wants: Literal["speed", "size"] = "size"
    _ranges: dict[str, Range] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """None: numbers are cast as they are."""
        return ()

    def using(self, methods: tuple[str, ...]) -> HalfMode:
        """The same."""
        return self

    @property
    def verdict(self) -> Verdict:
        """What to call a result."""
        return cast(Verdict, self.name)

    @property
    def dtype(self) -> ir.DataType:
        """The type to compute in."""
        return TYPES[self.name]

    def choices(self, model: ir.Model) -> tuple[Choice, ...]:
        """Which nodes can compute in 16 bits; BadInput where the target can't."""
        refuse_half(self.name, self.target)
        if self._ranges is None:
            self._ranges = {}
            if self.feeds is not None:
                self._ranges |= collect(model, self.feeds, threads=self.threads)
        recurrences = self.target != "cpu"
        return half_choices(model, self.dtype, self._ranges, recurrences=recurrences)

    def build(self, model: ir.Model, chosen: Collection[str]) -> ir.Model:
        """The model with its weights and sums in 16 bits."""
        return with_half(model, chosen, self.dtype)

    def prove(self, model: ir.Model) -> Proof:
        """Which nodes onnxruntime's CPU provider computes in 16 bits, and which between casts."""
        if self.target != "cpu":
            return Proof((), {}, ())
        return prove_half(model, self.dtype)


def refuse_half(mode: str, target: str) -> None:
    """Raise BadInput where the target can't compute in the mode's type."""
    if mode != "bf16" or target in _BFLOAT_TARGETS:
        return
    if target == "cpu" and _runs_bfloat():
        return
    name = "onnxruntime's CPU provider" if target == "cpu" else f"the target {target}"
    raise BadInput(
        f"{name} has no products of bfloat16",
        hint="use --mode fp16, or --target tensorrt for a GPU that has them",
    )


def refuse_types(model: ir.Model, mode: str) -> None:
    """Raise BadInput for a model that does not compute in float32."""
    counts: dict[ir.DataType, int] = {}
    for node in model.graph.all_nodes():
        for value in node.inputs:
            tensor = ops.constant(value)
            if tensor is not None and tensor.dtype.is_floating_point():
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + int(tensor.size)
    if not counts:
        return
    main = max(counts, key=lambda each: counts[each])
    if main is TYPES[mode]:
        raise BadInput(f"the model computes in {WORDS[main]} already", hint="use it as it is")
    if main is not ir.DataType.FLOAT:
        raise BadInput(
            f"the model computes in {main.name.lower()}, and only float32 is made smaller",
            hint="export it in float32",
        )


def _runs_bfloat() -> bool:
    """Whether the installed onnxruntime multiplies matrices of bfloat16 on the CPU."""
    kind = onnx.TensorProto.BFLOAT16
    shape = [2, 2]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        "probe",
        [helper.make_tensor_value_info(name, kind, shape) for name in "ab"],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    try:
        session = Session.open(model, optimize=True, threads=1)
        ones = np.ones(shape, ir.DataType.BFLOAT16.numpy())
        session.run({"a": ones, "b": ones})
    except RuntimeFailed:
        return False
    return True
