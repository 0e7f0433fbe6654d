"""Helpers of the folding tests: fold a model written as text, and hold it against the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from casefile import parse

from onnxopt import io
from onnxopt.config import Options
from onnxopt.passes import shapes
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.fold import FoldPass
from onnxopt.runtime.sessions import Session

Feeds = Mapping[str, Any]


def fold(source: str | onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, PassResult]:
    """The model after one FoldPass, as it would be saved, and what the pass says of it."""
    proto = parse(source) if isinstance(source, str) else source
    model = io.load(proto)
    result = FoldPass().run(model, Context(Options(**options), proto.ByteSize()))
    shapes.restore(model)
    return io.to_proto(model), result


def ops_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator there are, those of bodies and functions included."""
    count: Counter[str] = Counter()

    def walk(nodes: Any) -> None:
        for node in nodes:
            count[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g.node)

    walk(model.graph.node)
    for function in model.functions:
        walk(function.node)
    return {name: number for name, number in sorted(count.items()) if name != "Constant"}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The initializers and Constant nodes of the main graph by name."""
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def same_answers(source: str | onnx.ModelProto, folded: onnx.ModelProto, *feeds: Feeds) -> None:
    """Check that the folded model is as valid as before and gives the same bits on the feeds."""
    proto = parse(source) if isinstance(source, str) else source
    if _is_valid(proto):
        onnx.checker.check_model(folded, full_check=True)
    before = Session.open(proto, optimize=False, threads=1)
    after = Session.open(folded, optimize=False, threads=1)
    for feed in feeds or ({},):
        for wanted, found in zip(before.run(feed), after.run(feed), strict=True):
            assert wanted.dtype == found.dtype and wanted.shape == found.shape
            np.testing.assert_array_equal(wanted, found)


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True
