"""Where the inputs of products lie, so that their weights can be trained as if these were at zero.

A normalization that was folded into a convolution no longer keeps its inputs around zero. Behind an
activation they are all positive: a step that moves all weights of a channel the same way then moves
its output far, and a rate that suits one layer destroys another. In terms of y = W (x - mean) + c
weights and biases are apart again; it is the same product, for any mean (compare LeCun et al.,
Efficient BackProp, 1998, on centred inputs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from onnxopt import ops
from onnxopt.distill.kernels import Tensor
from onnxopt.distill.module import GraphModule


@dataclass(frozen=True, slots=True)
class Centre:
    """A weight and its bias by their places among a module's, and the mean of what it multiplies.

    `mean` has the weight's rank, with ones where all of the weight shares it; `outputs` is the
    weight's axis of outputs.
    """

    weight: int
    bias: int
    mean: Tensor
    outputs: int

    def apart(self, slope: Tensor, bias_slope: Tensor) -> Tensor:
        """The slope of the weight where c stays as it is."""
        return slope - self._along(bias_slope, slope) * self.mean

    def follow(self, move: Tensor) -> Tensor:
        """How the bias moves where the weight moves and c stays."""
        axes = [axis for axis in range(move.dim()) if axis != self.outputs]
        return -(move * self.mean).sum(axes)

    def _along(self, row: Tensor, like: Tensor) -> Tensor:
        shape = [1] * like.dim()
        shape[self.outputs] = -1
        return row.reshape(shape)


def centres(model: ir.Model, module: GraphModule, feed: Mapping[str, Any]) -> list[Centre]:
    """The centres of a model's convolutions and Gemms, from what they get for a feed.

    `module` holds the weights that are trained. Weights of several nodes, and those without a
    trained bias, have none.
    """
    places: dict[ir.Value | None, int] = {
        weight.value: place for place, weight in enumerate(module.weights)
    }
    uses = Counter(value for node in model.graph for value in node.inputs)
    nodes = [
        node
        for node in model.graph
        if ops.is_standard(node, "Conv") or ops.is_standard(node, "Gemm")
        if len(node.inputs) == 3
        if all(value in places and uses[value] == 1 for value in node.inputs[1:])
        if all(module.weights[places[value]].coding is None for value in node.inputs[1:])
    ]
    if not nodes:
        return []
    sources = dict.fromkeys(_source(node) for node in nodes)
    reader = GraphModule(model, list(sources), device=module.device)
    with torch.no_grad():
        values = reader(reader.tensors(feed))
    return [_centre(node, values[_source(node)], places, module) for node in nodes]


def _source(node: ir.Node) -> str:
    value = node.inputs[0]
    return "" if value is None else value.name or ""


def _centre(
    node: ir.Node, value: Tensor, places: Mapping[ir.Value | None, int], module: GraphModule
) -> Centre:
    _, weight, bias = node.inputs
    shape = module.weights[places[weight]].start.shape
    if node.op_type == "Gemm":
        across = 0 if node.attributes.get_int("transA", 0) else 1
        mean = value.mean(1 - across)
        outputs = 0 if node.attributes.get_int("transB", 0) else 1
        shaped = mean.reshape((1, -1) if outputs == 0 else (-1, 1))
    else:
        outputs = 0
        mean = value.mean([0, *range(2, value.dim())])
        # Each group of outputs sees its own part of the inputs.
        rows = mean.reshape(-1, shape[1]).repeat_interleave(shape[0] * shape[1] // len(mean), 0)
        shaped = rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
    return Centre(places[weight], places[bias], shaped, outputs)
