"""sympy is put off until a symbolic dim is computed with, and whoever needs it still gets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code: str) -> list[str]:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("ir.Shape(['N', 2, None])", "False"),
        ("ir.SymbolicDim('N') == ir.SymbolicDim('M')", "False"),
        ("io.load('models/mnist_cntk.onnx')", "False"),
        ("io.skeleton(io.load('models/ppocr_cls.onnx'))", "False"),
        ("ir.SymbolicDim('N') + 1", "True"),
        ("ir.SymbolicDim('max(N, 2)').evaluate({'N': 3})", "True"),
    ],
)
def test_only_arithmetic_on_dims_loads_sympy(use: str, loaded: str) -> None:
    start = "import onnxopt, sys, onnx_ir as ir; from onnxopt import io"
    assert run(f"{start}; {use}; print('sympy.core' in sys.modules)") == [loaded]


@pytest.mark.parametrize(
    ("use", "printed"),
    [
        ("import sympy; print(sympy.Symbol('x') * 2)", "2*x"),
        ("from sympy import Max; print(Max(1, 2))", "2"),
        ("import sympy.printing; print(sympy.printing.__name__)", "sympy.printing"),
        ("import sympy.core.expr as e; print(e.Expr.__name__)", "Expr"),
        ("import sympy; print(isinstance(ir.SymbolicDim('n')._expr, sympy.Expr))", "True"),
        ("import sympy; print(isinstance(2, sympy.Expr), type(sympy).__name__)", "False module"),
        ("import sympy; print(hasattr(sympy, 'no_such_thing'))", "False"),
        ("import importlib.util as u; print(u.find_spec('sympy').name)", "sympy"),
        ("import sympy, inspect; print(inspect.getmodule(sympy.Symbol).__name__)", "sympy.core"),
        ("from google.protobuf import json_format as j; print(j.MessageToJson.__name__)", "Mess"),
        ("import onnx; print(onnx.printer.to_text(onnx.NodeProto(op_type='Add')))", "Add"),
    ],
)
def test_whoever_needs_a_module_that_was_put_off_gets_it(use: str, printed: str) -> None:
    out = " ".join(run(f"import onnxopt, onnx_ir as ir\n{use}"))
    assert printed in out


def test_nothing_is_put_off_that_was_there_already() -> None:
    code = "import sympy, onnxopt, onnx_ir; print(sympy.Symbol('x'), type(sympy).__name__)"
    assert run(code) == ["x", "module"]


def test_the_import_system_is_left_as_it_was() -> None:
    code = """
import sys
before = list(sys.meta_path)
import onnxopt, onnx_ir, onnx
print(sys.meta_path == before, type(onnx_ir.__spec__.loader).__name__, onnx.__loader__ is not None)
"""
    assert run(code) == ["True", "SourceFileLoader", "True"]


def test_threads_that_need_sympy_at_once_all_get_the_whole_of_it() -> None:
    code = """
import onnxopt, onnx_ir as ir
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(lambda n: str(ir.SymbolicDim("n") + 1), range(32))))
"""
    assert run(code) == ["n", "+", "1"]
