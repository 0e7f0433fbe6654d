"""`onnxopt quantize`: calibrate, plan, insert, prove, measure, decide, save, report."""

from __future__ import annotations

from typing import Any

import click

from onnxopt.cli import options, quantizing
from onnxopt.cli.output import Telling


@click.command("quantize", short_help="Make a model run in integers where that pays.")
@options.model_path("model")
@options.written
@options.data(quantizing.DATA, quantizing.WHERE)
@quantizing.choices
@click.option("--no-bench", is_flag=True, help="Leave the timing out of the decision.")
@options.shapes
@options.threads
@options.saving
@options.reporting
def command(model: str, telling: Telling, no_bench: bool, **asked: Any) -> int:
    """Quantize MODEL to 8 bits where onnxruntime then really computes in integers, where that is
    faster, and as far as the accuracy holds.

    What comes out is never slower than the float model: where integers do not pay, it is the
    optimized float model. Exit code 1 means that the budget was missed, and nothing was written.
    """
    return quantizing.carry_out(model, telling=telling, bench=not no_bench, **asked)
