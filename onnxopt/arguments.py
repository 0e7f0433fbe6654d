"""What arguments mean that public functions share: said once, checked once."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from onnxopt.errors import BadInput

Function = TypeVar("Function", bound=Callable[..., Any])
Progress: TypeAlias = "Callable[[float, str], None]"
"""Told how much is done, 0 (not known) to 1, and what is being done."""

SHARED = {
    "model": "A float model; it is never changed.",
    "data": "Samples of real inputs without labels (see check.data.read_data). Each fifth run is"
    " kept apart to measure on.",
    "metric": "How loss is measured, see check.metric.metric.",
    "labels": 'Class indices of all samples, for the metric "top1".',
    "max_drop": "How much may be lost (see check.metric.Score); without it anything.",
    "plan": "A plan, or the path of one, to carry out as it is.",
    "plan_only": "Stop when the plan is made.",
    "batch": "Samples a run of `data`.",
    "preprocess": "How pictures in `data` become inputs, see check.images.Preprocess.",
    "optimize": "How the model is optimized first: keywords of `onnxopt.optimize` among level,"
    " only, disable, enable, freeze_inputs, max_growth, opset, passes and check.",
    "seed": "Seed of what is made up.",
    "input_shapes": "New shapes of inputs, by name.",
    "dims": "Sizes of symbolic dims, by name.",
    "threads": "Threads inside an operator; 0 lets onnxruntime choose.",
    "output": "Where to write the result; nothing is written where `report.passed` is False.",
    "external": "Where weights go when `output` is written (see io.save).",
    "overwrite": "Allow `output` to be the input file.",
    "progress": "Told how far it is.",
}
FIRST = (
    "level", "only", "disable", "enable", "freeze_inputs", "max_growth", "opset", "passes", "check",
)  # fmt: skip
"""Keywords of `optimize` that shape the float model that other work begins with."""

_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def explained(function: Function) -> Function:
    """Complete the docstring's `Args` with what SHARED tells; in the order of the signature.

    Raises KeyError for an argument that neither of them explains.
    """
    if function.__doc__ is None:  # python -OO
        return function
    head, title, tail = inspect.cleandoc(function.__doc__).partition("Args:\n")
    own, gap, rest = tail.partition("\n\n")
    parts = _ENTRY.split(own)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    entries = [
        f"    {name}: {found[name].rstrip()}" if name in found else _entry(name)
        for name in inspect.signature(function).parameters
    ]
    function.__doc__ = "".join([head, title, "\n".join(entries), gap, rest])
    return function


def _entry(name: str) -> str:
    return textwrap.fill(
        f"{name}: {SHARED[name]}", 96, initial_indent=" " * 4, subsequent_indent=" " * 8
    )


def silent(share: float, doing: str) -> None:
    """A progress that nobody looks at."""


def known(what: str, name: str, names: Iterable[str]) -> str:
    """The name. Raises BadInput where it is not one of them."""
    if name not in names:
        raise BadInput(f"there is no {what} {name!r}", hint=f"choose from {', '.join(names)}")
    return name


def keywords(
    step: str, given: Mapping[str, Any] | None, names: Sequence[str] = FIRST
) -> dict[str, Any]:
    """What is given for a step. Raises BadInput for a keyword that is not one of these names."""
    for name in given or ():
        if name not in names:
            raise BadInput(
                f"{name!r} is nothing to choose for {step}", hint=f"choose from {', '.join(names)}"
            )
    return dict(given or {})


def plan_text(path: str | os.PathLike[str]) -> str:
    """What a plan's file holds. Raises BadInput where it can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the plan {path} can't be read: {error}") from error


def budget(max_drop: float | None) -> float | None:
    """What may be lost. Raises BadInput where that can't be."""
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise BadInput(f"the drop can't be {max_drop}", hint="give 0 or more, such as 0.005")
    return max_drop
