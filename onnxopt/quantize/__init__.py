"""Quantization: what runs in integers, what it costs in accuracy, and whether it pays.

The package can be called: `onnxopt.quantize(model, data=...)` is `onnxopt.api_quantize.quantize`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # The package and the function have one name, and importing the one hides the other.
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("onnxopt.api_quantize").quantize(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
