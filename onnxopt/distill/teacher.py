"""The teacher: what it gives for a batch, from onnxruntime, or from torch on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch

from onnxopt.check.inputs import Feed
from onnxopt.distill.kernels import Tensor, Untaught
from onnxopt.distill.module import GraphModule
from onnxopt.errors import BadInput
from onnxopt.runtime.sessions import Session

Array = np.ndarray[Any, np.dtype[Any]]
Targets: TypeAlias = "dict[str, Tensor]"


class Teacher:
    """Values of a model for feeds, as tensors on a device.

    Args:
        model: The model; it is not changed.
        names: Outputs and inner values of the main graph.
        inputs: For each of the teacher's inputs the name that it has in feeds.
        device: Where the values are needed.
        threads: Threads of onnxruntime; 0 lets it choose.

    Raises:
        BadInput: There is no value of such a name.
        RuntimeFailed: onnxruntime can't load the model.
    """

    def __init__(
        self,
        model: ir.Model,
        names: Sequence[str],
        inputs: Mapping[str, str],
        *,
        device: Any = "cpu",
        threads: int = 0,
    ) -> None:
        self._names = list(dict.fromkeys(names))
        self._inputs = dict(inputs)
        self._device = torch.device(device)
        self._module: GraphModule | None = None
        self._session: Session | None = None
        if self._device.type == "cuda":
            try:
                self._module = GraphModule(model, self._names, device=device)
                return
            except Untaught:
                # Slower, but any model can teach.
                pass
        self._session = Session.open(
            with_outputs(model, self._names), optimize=True, threads=threads
        )

    def answers(self, feed: Feed) -> Targets:
        """The values by name for a feed of the student's inputs."""
        own = {name: feed[known] for name, known in self._inputs.items() if known in feed}
        if self._module is not None:
            with torch.no_grad():
                answers: Targets = self._module(self._module.tensors(own))
                return answers
        assert self._session is not None
        found = self._session.run(own, self._names)
        return {
            name: torch.from_numpy(np.array(value, np.float32)).to(self._device)
            for name, value in zip(self._names, found, strict=True)
        }


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of the model whose outputs are these values. Raises BadInput where one is missing."""
    copy = model.clone()
    known = {value.name: value for value in copy.graph.inputs}
    for node in copy.graph:
        known.update((value.name, value) for value in node.outputs if value.name)
    for name in names:
        if name not in known:
            raise BadInput(
                f"the teacher has no value {name!r}",
                hint="its outputs: " + ", ".join(value.name or "" for value in copy.graph.outputs),
            )
    outputs = [known[name] for name in names]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    return copy
