"""Makes a float model ready for its ranges: what keeps its function and suits codes better."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

import onnx_ir as ir

from onnxopt.check.inputs import Feed
from onnxopt.passes.base import Context
from onnxopt.quantize.centre import centre_channels
from onnxopt.quantize.equalize import EqualizePass
from onnxopt.quantize.order import order_channels
from onnxopt.quantize.weights import ADDS_IN_16_BITS

MEASURED_ON = 100
"""Samples that channels are measured on."""


def make_ready(
    model: ir.Model,
    feeds: Iterable[Feed],
    methods: Collection[str],
    *,
    target: str,
    threads: int = 0,
    progress: Callable[[float, str], None] = lambda share, doing: None,
) -> None:
    """Treat the model in place with those of `methods` that come before calibration.

    None of them makes a model worse than it was: "order" and "centre" change what they shorten,
    and nothing else. "equalize" is not among the defaults: on networks trained with batch
    normalization it gains nothing where weights have scales for each channel.

    Args:
        model: The float model, its shapes inferred and all nodes named.
        feeds: Calibration samples.
        methods: See weights.METHODS.
        target: Where the model is to run.
        threads: Threads inside an operator.
        progress: Told what is done.

    Raises:
        RuntimeFailed: A feed does not run.
    """
    if "equalize" in methods:
        progress(0.0, "equalizing channels")
        EqualizePass(list(islice(feeds, MEASURED_ON)), threads=threads).run(model, Context())
    if "order" in methods and target in ADDS_IN_16_BITS:
        order_channels(model)
    if "centre" in methods:
        progress(0.0, "centring channels")
        # They are read only where there is something to centre.
        centre_channels(model, islice(feeds, MEASURED_ON), threads=threads)
