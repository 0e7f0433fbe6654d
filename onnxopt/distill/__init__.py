"""Label-free training: a teacher's outputs teach a student that is an ONNX graph.

Nothing here imports torch before it is needed; it comes with the extra `distill`. The package can
be called: `onnxopt.distill(teacher, student, data=...)` is `onnxopt.api_distill.distill`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # The package and the function have one name, and importing the one hides the other.
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("onnxopt.api_distill").distill(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
