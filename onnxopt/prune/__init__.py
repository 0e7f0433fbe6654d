"""Removes whole channels, heads and hidden units from a model.

The package can be called: `onnxopt.prune(model, data=..., macs=0.75)` is
`onnxopt.api_prune.prune`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # The package and the function have one name, and importing the one hides the other.
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("onnxopt.api_prune").prune(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
