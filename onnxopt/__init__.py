"""onnxopt: rewrite ONNX graphs, prove that nothing changed, measure what it brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt import _lazy

if TYPE_CHECKING:
    from onnxopt.api import Result, bench, inspect, optimize, validate
    from onnxopt.api_compress import CompressResult, compress
    from onnxopt.api_distill import DistillResult, distill
    from onnxopt.api_prune import PruneResult, prune
    from onnxopt.api_quantize import QuantizeResult, quantize
    from onnxopt.api_sparsify import SparsifyResult, sparsify
    from onnxopt.config import Exactness, Level, Options
    from onnxopt.errors import OnnxoptError
    from onnxopt.io import load, save
    from onnxopt.passes.foreign import foreign_pass, graphsurgeon_pass

__version__ = "0.1.0"

# Before anything imports onnx_ir.
_lazy.put_off()

_HOMES = {
    "CompressResult": "api_compress",
    "DistillResult": "api_distill",
    "Exactness": "config",
    "Level": "config",
    "OnnxoptError": "errors",
    "Options": "config",
    "PruneResult": "api_prune",
    "QuantizeResult": "api_quantize",
    "Result": "api",
    "SparsifyResult": "api_sparsify",
    "bench": "api",
    "compress": "api_compress",
    "distill": "api_distill",
    "foreign_pass": "passes.foreign",
    "graphsurgeon_pass": "passes.foreign",
    "inspect": "api",
    "load": "io",
    "optimize": "api",
    "prune": "api_prune",
    "quantize": "api_quantize",
    "save": "io",
    "sparsify": "api_sparsify",
    "validate": "api",
}

__all__ = [
    "CompressResult",
    "DistillResult",
    "Exactness",
    "Level",
    "OnnxoptError",
    "Options",
    "PruneResult",
    "QuantizeResult",
    "Result",
    "SparsifyResult",
    "bench",
    "compress",
    "distill",
    "foreign_pass",
    "graphsurgeon_pass",
    "inspect",
    "load",
    "optimize",
    "prune",
    "quantize",
    "save",
    "sparsify",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that start-up stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxopt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"onnxopt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
