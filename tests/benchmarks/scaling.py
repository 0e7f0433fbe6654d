"""How time grows with the number of nodes, on generated models that mix what exporters write."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.benchmarks.process import run
from tests.benchmarks.tables import Section
from tests.benchmarks.tools import onnxopt
from tests.benchmarks.transformer import OPSET, Builder, Inline, Sizes

COUNTS = (2_000, 20_000)
_NOTHING = 10
_SIZES = Sizes(layers=0, hidden=16, heads=2)
_CHANNELS = 8


def mixed_model(count: int) -> onnx.ModelProto:
    """A model of about `count` nodes: convolution blocks, then transformer layers, by turns.

    There is something to do all along: normalizations to fold, activations, LayerNorms and
    attention to fuse, shape arithmetic to resolve, and nodes that do nothing.
    """
    build = Builder(Inline())
    image, tokens, mask = "image", "tokens", build.mask("mask")
    index = 0
    while len(build.nodes) < count:
        tokens = build.layer(tokens, mask, f"layer.{index}", _SIZES)
        for part in range(4):
            image = _block(build, image, f"block.{index}.{part}")
        index += 1
    image, tokens = build.op("Identity", image), build.op("Identity", tokens)
    floats, open_sizes = TensorProto.FLOAT, ["batch", "length"]
    inputs = [
        helper.make_tensor_value_info("image", floats, ["batch", _CHANNELS, 32, 32]),
        helper.make_tensor_value_info("tokens", floats, [*open_sizes, _SIZES.hidden]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, open_sizes),
    ]
    outputs = [
        helper.make_tensor_value_info(image, floats, ["batch", _CHANNELS, 32, 32]),
        helper.make_tensor_value_info(tokens, floats, [*open_sizes, _SIZES.hidden]),
    ]
    graph = helper.make_graph(build.nodes, "mixed", inputs, outputs, build.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _block(build: Builder, x: str, name: str) -> str:
    """A residual block: Conv, BatchNormalization, HardSwish in parts, Dropout, Identity, Add."""
    weight = build.weight(f"{name}.conv", _CHANNELS, _CHANNELS, 3, 3)
    y = build.op("Conv", x, weight, pads=[1, 1, 1, 1])
    norm = [
        build.weight(f"{name}.{part}", _CHANNELS, fill=fill)
        for part, fill in (("scale", 1.1), ("bias", 0.1), ("mean", 0.2), ("variance", 0.9))
    ]
    y = build.op("BatchNormalization", y, *norm)
    inner = build.op("Add", y, build.constant(3.0))
    inner = build.op("Clip", inner, build.constant(0.0), build.constant(6.0))
    y = build.op("Div", build.op("Mul", y, inner), build.constant(6.0))
    y = build.op("Identity", build.op("Dropout", y))
    return build.op("Relu", build.op("Add", x, y))


def section(command: str | None = None, *, rounds: int = 3) -> Section:
    """Optimize models of 10, 2,000 and 20,000 nodes in turns."""
    tool = onnxopt(command)
    seconds: dict[int, list[float]] = {count: [] for count in (_NOTHING, *COUNTS)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.onnx" for count in seconds}
        for count, path in paths.items():
            onnx.save(mixed_model(count), path)
        for _ in range(rounds):
            for count, path in paths.items():
                ran = run(tool.command(path, path.with_name(f"out{count}.onnx")))
                path.with_name(f"out{count}.onnx").unlink(missing_ok=True)
                if ran.failed:
                    raise SystemExit(f"optimizing {count} nodes failed: {ran.said}")
                seconds[count].append(ran.seconds)
                print(f"{count} nodes  {ran.seconds:.2f} s")
    start, small, large = (statistics.median(times) for times in seconds.values())
    return Section(
        "Growth with the number of nodes",
        "Generated models of convolution blocks and transformer layers by turns: the whole "
        f"command, the median of {rounds} runs, and the same without what a model of one block "
        "takes, which is start-up.",
        (">nodes", ">seconds", ">without start-up"),
        [
            [
                f"{count:,}",
                f"{statistics.median(times):.2f}",
                f"{statistics.median(times) - start:.2f}",
            ]
            for count, times in seconds.items()
        ],
        {
            "whole command, 10x the nodes": f"{large / small:.1f}x",
            "without start-up": f"{(large - start) / (small - start):.1f}x",
        },
        {str(count): times for count, times in seconds.items()},
    )
