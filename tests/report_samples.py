"""Records made up for the tests of their faces."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from onnxopt.bench.cost import Cost
from onnxopt.bench.statistics import Interval
from onnxopt.bench.timing import Comparison, Side, Timing
from onnxopt.check.compare import OutputDifference
from onnxopt.check.metric import Score
from onnxopt.check.parity import Parity
from onnxopt.config import Exactness, Options
from onnxopt.passes.base import Refusal, Step
from onnxopt.report.quantization import Layer, QuantizationReport, stages_of
from onnxopt.report.record import Report, Versions

COST = Cost(
    nodes=233,
    ops={"Conv": 20, "Add": 213},
    parameters=271_000,
    parameter_bytes=1_084_000,
    bytes=1_290_000,
    dtypes={"FLOAT": 271_000},
    macs=40_600_000,
    macs_at={"batch": 1},
)
AGREES = Parity(
    passed=True,
    deterministic=True,
    exactness=Exactness.CLOSE,
    outputs=(OutputDifference("y", "float32", 1e-6, 0.05, 1.0, 120.0, True),),
    runs=3,
)
DIFFERS = replace(
    AGREES,
    passed=False,
    outputs=(OutputDifference("y", "float32", 0.5, math.inf, 0.9, 7.0, False, "3 of 10 differ"),),
)
VERSIONS = Versions("0.1.0", "1.23", "1.31", "2.4", "3.11", "CPUExecutionProvider", "a processor")


def report(**changes: Any) -> Report:
    """A plain report, with what a test wants to be different."""
    plain = Report(
        source="in.onnx",
        output="out.onnx",
        before=COST,
        after=replace(COST, nodes=75, bytes=1_120_000),
        steps=(
            Step("fold", True, {"Expand": 38}),
            Step("rewrite", True, {"drop_cast": 2, "fuse_gelu": 40}),
        ),
        parity=AGREES,
        timing=None,
        exactness=Exactness.CLOSE,
        options=Options(),
        versions=VERSIONS,
    )
    return replace(plain, **changes)


def refusals(reason: str, *nodes: str, subject: str = "fuse_gelu") -> tuple[Refusal, ...]:
    return tuple(Refusal(subject, node, reason) for node in nodes)


def timing(verdict: Any = "faster", ratio: float = 2.0, peak: int | None = None) -> Timing:
    """The second of two sides against the first."""
    sides = tuple(
        Side(name, Interval(ms, ms * 0.9, ms * 1.1), ms * 2, 10.0, 1000, peak, 100, (ms,))
        for name, ms in (("before", 2.0), ("after", 2.0 / ratio))
    )
    interval = Interval(ratio, ratio * 0.9, ratio * 1.1)
    return Timing(
        sides=sides,
        comparisons=(Comparison("after", interval, verdict),),
        itself=Interval(1.0, 0.99, 1.01),
        noise_floor=1.02,
        providers=("CPUExecutionProvider",),
        threads=0,
        rounds=10,
        calls_per_block=5,
        feeds=1,
        seconds=3.0,
    )


def layers(count: int, name: str = "conv") -> tuple[Layer, ...]:
    """Nodes in the model's order, the later the worse; each third stays float."""
    return tuple(
        Layer(f"{name}_{i}", "Conv", "float", "it reads 3 channels")
        if i % 3 == 0
        else Layer(
            f"{name}_{i}",
            "Conv",
            "QLinearConv",
            "it has a kernel",
            low=-1.5,
            high=2.5,
            scale=0.0157,
            zero_point=96,
            bits="uint8",
            weight="int8 per channel",
            sqnr_db=40.0 - 20.0 * i / count,
            float_milliseconds=0.04,
            milliseconds=0.02,
        )
        for i in range(count)
    )


def quantization(**changes: Any) -> QuantizationReport:
    """A plain report of a quantization, with what a test wants to be different."""
    found = report()
    score = Score("agreement", 1.0, 0.985, 0.004, 200)
    plain = QuantizationReport(
        source="in.onnx",
        output="out.onnx",
        target="cpu",
        verdict="int8",
        reason="it holds the budget and runs at 2.00x",
        score=score,
        max_drop=0.015,
        sqnr_db=28.5,
        layers=layers(6),
        islands=(),
        back=(),
        borders={"QuantizeLinear": 1, "DequantizeLinear": 1},
        timing=None,
        float_bytes=1_120_000,
        bytes=338_000,
        versions=VERSIONS,
        notes=("10 runs kept apart",),
        optimization=found,
        stages=stages_of(found, replace(COST, bytes=338_000), None, score),
    )
    return replace(plain, **changes)
