"""Makes a command start sooner, in ways that are for a command line and not for a library."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

READER = "onnx_ir._symbolic_shapes"
FUNCTIONS = frozenset({"Max", "Min", "Mod", "floor", "sqrt"})


def prepare() -> None:
    """Call before anything heavy is imported."""
    # Hundreds of thousands of long-lived objects are made in one go: with the default thresholds
    # the collector walks all of them again and again.
    gc.set_threshold(200_000, 20, 100)
    # onnx_ir imports sympy, which takes longer than everything else together, and needs it for
    # arithmetic on symbolic dims only.
    if "sympy" not in sys.modules:
        sys.modules["sympy"] = _LaterSympy("sympy")


class _LaterSympy(ModuleType):
    """Stands for sympy until something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        caller = sys._getframe(1)
        at_import = caller.f_code.co_name == "<module>"
        if at_import and caller.f_globals.get("__name__") == READER and name in FUNCTIONS:
            return _later(name)
        return getattr(_sympy(), name)


def _sympy() -> ModuleType:
    if isinstance(sys.modules.get("sympy"), _LaterSympy):
        del sys.modules["sympy"]
    import sympy

    return sympy  # type: ignore[no-any-return]


def _later(name: str) -> Callable[..., Any]:
    def call(*operands: Any) -> Any:
        return getattr(_sympy(), name)(*operands)

    return call
