"""Whatever axis of an operator is said to be free, the oracle holds: over the ONNX backend suite.

Each axis of an operator's first input comes out of a product with an identity, and each axis of
what it gives goes into a product, so that channels begin and end right at the operator.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pruning import outputs_of, prunable

from onnxopt import io
from onnxopt.passes import shapes
from onnxopt.prune.apply import remove
from onnxopt.prune.groups import find_groups
from onnxopt.prune.oracle import zeroed
from tests import corpus

MOST = 3000
"""Elements of an input or output that is looked at."""


def _product(graph: onnx.GraphProto, name: str, shape: tuple[int, ...], made: int | None) -> Any:
    """Nodes that multiply each axis of a value by a matrix; identities where `made` is None."""
    random = np.random.default_rng(0)
    nodes = []
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        order = [each for each in range(len(shape)) if each != axis] + [axis]
        weight = np.eye(size) if made is None else random.random((size, made)) + 0.5
        stem = f"{name}_{axis}"
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"{stem}_w"))
        back = np.argsort(order).tolist()
        nodes += [
            helper.make_node("Transpose", [name], [f"{stem}_t"], perm=order),
            helper.make_node("MatMul", [f"{stem}_t", f"{stem}_w"], [f"{stem}_m"]),
            helper.make_node("Transpose", [f"{stem}_m"], [f"{stem}_o"], perm=back),
        ]
        name = f"{stem}_o"
    return nodes, name


def _surrounded(case: corpus.Case) -> tuple[onnx.ModelProto, dict[str, Any]] | None:
    """The model with products around it and the other inputs constant; None if it is too odd."""
    model, feeds = case.model(), case.feeds()
    graph = model.graph
    first = graph.input[0].name if graph.input else ""
    x = feeds.get(first)
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or not 1 < x.size < MOST:
        return None
    others = {name: value for name, value in feeds.items() if name != first}
    if not all(isinstance(value, np.ndarray) for value in others.values()):
        return None
    outputs = corpus.run(model, feeds)
    if not isinstance(outputs, list):
        return None
    before, name = _product(graph, first, x.shape, None)
    for node in graph.node:
        node.input[:] = [name if each == first else each for each in node.input]
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in others.items())
    inputs = [info for info in graph.input if info.name == first]
    after, kept = [], []
    for info, value in zip(graph.output, outputs, strict=True):
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.size < MOST:
            nodes, end = _product(graph, info.name, value.shape, 2)
            after += nodes
            shape = [min(size, 2) for size in value.shape]
            kept.append(helper.make_tensor_value_info(end, 1, shape))
        else:
            kept.append(info)
    del graph.input[:], graph.output[:]
    graph.input.extend(inputs)
    graph.output.extend(kept)
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return model, {first: x}


def _odd(case: corpus.Case) -> bool:
    return case.path is not None and "/node/" not in case.path.as_posix()


# Every fourth, all of them with ONNXOPT_SLOW=1.
CASES = [case for case in corpus.cases() if not _odd(case)]
STEP = 1 if os.environ.get("ONNXOPT_SLOW") else 4


@pytest.mark.parametrize("shard", range(4))
def test_an_axis_that_is_free_may_lose_coordinates(shard: int) -> None:
    looked_at, wrong = 0, []
    for case in CASES[shard :: 4 * STEP]:
        drawn = _surrounded(case)
        if drawn is not None:
            found = [_holds(*drawn, name) for name in _free(drawn[0])]
            looked_at += len(found)
            wrong += [(case.name, said) for said in found if said]
    assert looked_at > 20
    assert not wrong


def _free(proto: onnx.ModelProto) -> list[str]:
    model = io.load(proto)
    shapes.infer(model)
    return list(prunable(find_groups(model)))


def _holds(proto: onnx.ModelProto, feeds: dict[str, Any], name: str) -> str:
    """What is wrong when every second channel of a group goes, empty if nothing."""
    model = io.load(proto)
    shapes.infer(model)
    groups = find_groups(model)
    group = prunable(groups)[name]
    removal = {name: tuple(range(0, group.size, 2))[: group.size - 1]}
    try:
        expected = outputs_of(zeroed(model, groups, removal), feeds)
        found = outputs_of(remove(model, groups, removal), feeds)
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    for output, array in expected.items():
        if not np.allclose(found[output], array, rtol=1e-3, atol=1e-4, equal_nan=True):
            return f"{name}: {output} differs"
    return ""
