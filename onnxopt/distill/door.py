"""The way to torch, which only the extra `distill` brings."""

from __future__ import annotations

from typing import Any

from onnxopt.errors import BadInput, MissingExtra


def require_torch() -> Any:
    """The torch package. Raises MissingExtra where it is not installed."""
    try:
        import torch
    except ImportError:
        raise MissingExtra(
            "distillation needs torch, which is not installed",
            hint="pip install 'onnxopt[distill]'",
        ) from None
    return torch


def device_of(name: str) -> Any:
    """The torch device "cpu", "cuda" or "cuda:N". Raises BadInput where there is none of it."""
    torch = require_torch()
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise BadInput(f"there is no device {name!r}", hint="choose cpu, cuda or cuda:N")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= found:
            raise BadInput(
                f"torch sees no device {name!r} here ({found} CUDA devices)",
                hint="use --device cpu, or install a torch that is built for this machine's GPU",
            )
    return torch.device(name)
