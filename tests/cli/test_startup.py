"""The command line puts sympy off, and everything that needs it still gets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = "from onnxopt.cli import startup; startup.prepare()\nimport sys, onnx_ir as ir\n"


def _printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_onnx_ir_starts_without_sympy() -> None:
    code = "d = ir.Shape(['N', 2]); print('sympy.core' in sys.modules)"
    assert _printed(code) == "False"


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("print(ir.SymbolicDim('N') + 1)", "N + 1"),
        ("print(ir.SymbolicDim('max(N, 3)').evaluate({'N': 2}))", "3"),
        ("print(ir.SymbolicDim('floor(N/2)').evaluate({'N': 5}))", "2"),
        ("print(ir.SymbolicDim('mod(N, 3)').evaluate({'N': 5}))", "2"),
        ("import sympy; print(sympy.Symbol('x') * 2)", "2*x"),
        ("from sympy import Max; print(Max(1, 2))", "2"),
        ("import sympy.printing; print(sympy.printing.__name__)", "sympy.printing"),
    ],
)
def test_sympy_is_there_when_it_is_needed(code: str, printed: str) -> None:
    assert _printed(code) == printed
