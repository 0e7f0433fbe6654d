"""Execution providers by name, long or short, checked against what this onnxruntime has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnxruntime

from onnxopt.errors import BadInput

Provider: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""A provider's name, or its name and its options as onnxruntime documents them."""

CPU = "CPUExecutionProvider"
_SUFFIX = "ExecutionProvider"
_NICKNAMES = {
    "trt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "onednn": "DnnlExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
}


def available() -> tuple[str, ...]:
    """The full names of the providers that the installed onnxruntime was built with."""
    return tuple(onnxruntime.get_available_providers())


def resolve(providers: Sequence[Provider]) -> list[Provider]:
    """Full provider names in the given order, with the CPU provider last as the fallback.

    Short names ("cpu", "cuda", "openvino") and any letter case are understood.

    Raises:
        BadInput: A provider that this onnxruntime does not have; the hint lists those it has.
    """
    if not providers:
        raise BadInput("no execution provider is named", hint=f"available: {_listing()}")
    found = [_resolve_one(provider) for provider in providers]
    names = [name_of(provider) for provider in found]
    return found if CPU in names else [*found, CPU]


def name_of(provider: Provider) -> str:
    """The name alone of a provider given with or without options."""
    return provider if isinstance(provider, str) else provider[0]


def short_name(provider: Provider) -> str:
    """The name as people say it: "cpu" for CPUExecutionProvider."""
    return name_of(provider).removesuffix(_SUFFIX).lower()


def _resolve_one(provider: Provider) -> Provider:
    full = _full_name(name_of(provider))
    return full if isinstance(provider, str) else (full, provider[1])


def _full_name(name: str) -> str:
    key = name.lower().removesuffix(_SUFFIX.lower())
    built: dict[str, str] = {short_name(provider): provider for provider in available()}
    if key in built:
        return built[key]
    known: dict[str, str] = {
        short_name(provider): provider for provider in onnxruntime.get_all_providers()
    }
    known |= _NICKNAMES
    full = known.get(key)
    if full is not None and full in built.values():
        return full
    if full is not None:
        raise BadInput(
            f"the execution provider {full} is not in the installed onnxruntime",
            hint=f"install an onnxruntime build that has it; available here: {_listing()}",
        )
    close = difflib.get_close_matches(key, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise BadInput(
        f"no execution provider is called {name!r}", hint=f"{guess}available: {_listing()}"
    )


def _listing() -> str:
    return ", ".join(short_name(provider) for provider in available())
