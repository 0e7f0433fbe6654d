"""How time grows with the number of nodes, on generated models that mix what exporters write."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.benchmarks.process import Ran, run
from tests.benchmarks.tables import Section
from tests.benchmarks.tools import Tool, onnxopt
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
    runs = _measure(onnxopt(command), rounds)
    wall = [statistics.median(ran.seconds for ran in each) for each in runs.values()]
    busy = [statistics.median(ran.processor_seconds for ran in each) for each in runs.values()]
    return Section(
        "Growth with the number of nodes",
        "Generated models of convolution blocks and transformer layers by turns: the whole "
        f"command, the median of {rounds} runs. Start-up is what a model of one block takes.",
        (">nodes", ">seconds", ">processor seconds"),
        [
            [f"{count:,}", f"{seconds:.2f}", f"{processor:.2f}"]
            for count, seconds, processor in zip(runs, wall, busy, strict=True)
        ],
        {
            "10x the nodes, whole command": _growth(wall),
            "10x the nodes, without start-up": _growth([time - wall[0] for time in wall]),
            "10x the nodes, processor time without start-up": _growth(
                [time - busy[0] for time in busy]
            ),
        },
        {str(count): [asdict(ran) for ran in each] for count, each in runs.items()},
    )


def _growth(seconds: Sequence[float]) -> str:
    return f"{seconds[2] / seconds[1]:.1f}x"


def _measure(tool: Tool, rounds: int) -> dict[int, list[Ran]]:
    runs: dict[int, list[Ran]] = {count: [] for count in (_NOTHING, *COUNTS)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.onnx" for count in runs}
        for count, path in paths.items():
            onnx.save(mixed_model(count), path)
        for done, (count, path) in itertools.product(range(rounds), paths.items()):
            ran = run(tool.command(path, Path(folder) / f"out{count}.{done}.onnx"))
            if ran.failed:
                raise SystemExit(f"optimizing {count} nodes failed: {ran.said}")
            runs[count].append(ran)
            print(f"{count} nodes  {ran.seconds:.2f} s")
    return runs
