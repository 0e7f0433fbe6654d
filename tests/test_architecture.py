"""Imports run one way, each outside package has one door, and start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnxopt"

# A module may import from its own layer and from those before it.
LAYERS = [
    {"errors", "config", "_lazy"},
    {"arguments"},
    {"ops"},
    {"wire", "tensors", "order", "atomic", "attributes"},
    {"reader"},
    {"setaside"},
    {"parse", "writer"},
    {"external", "skeleton"},
    {"target"},
    {"io"},
    {"runtime"},
    {"rewrite"},
    {"registry"},
    {"check"},
    {"passes"},
    {"quantize", "prune", "distill"},
    {"bench"},
    {"report"},
    {"api"},
    {"api_call"},
    {"api_modes"},
    {"api_distill"},
    {"api_prune_steps"},
    {"api_prune", "api_quantize", "api_sparsify"},
    {"api_steps"},
    {"api_compress"},
    {"batch"},
    {"__init__"},
    {"catalogue"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

DOORS = {
    "click": ["onnxopt/cli/*"],
    "rich": ["onnxopt/cli/*", "onnxopt/report/terminal.py"],
    "onnxruntime": ["onnxopt/runtime/*"],
    "onnx_graphsurgeon": ["onnxopt/passes/foreign*.py"],
    "ray": ["onnxopt/batch/ray.py"],
    "torch": ["onnxopt/distill/*"],
}
RULE_IMPORTS = {"onnxopt.rewrite", "numpy", "onnx_ir", "onnxopt_rules", *sys.stdlib_module_names}

SOURCES = sorted(PACKAGE.rglob("*.py"))
RULES = sorted((ROOT / "rules").glob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: a relative import hides its layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(module: str) -> str | None:
    """The layer that `onnxopt.X...` belongs to; the package itself is the layer `__init__`."""
    parts = module.split(".")
    if parts[0] != "onnxopt":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_module_imports_only_from_layers_before_its_own(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in RANK, f"{own} has no place in LAYERS"
    layers = {module: _layer(module) for module in _imports(path)}
    late = {module for module, layer in layers.items() if layer and RANK[layer] > RANK[own]}
    assert not late, f"{_name(path)} imports from later layers: {sorted(late)}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_each_outside_package_has_one_door(path: Path) -> None:
    wrong = {
        package
        for package in {module.split(".")[0] for module in _imports(path)} & DOORS.keys()
        if not any(fnmatch(_name(path), door) for door in DOORS[package])
    }
    assert not wrong, f"{_name(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", RULES, ids=_name)
def test_a_rule_knows_the_rule_format_and_arrays_only(path: Path) -> None:
    modules = set(_imports(path))
    allowed = {m for m in modules for start in RULE_IMPORTS if f"{m}.".startswith(f"{start}.")}
    assert modules == allowed, f"{_name(path)} imports {sorted(modules - allowed)}"


@pytest.mark.parametrize(
    "statement",
    ["import onnxopt", "from onnxopt.cli.main import cli; cli(['--help'], standalone_mode=False)"],
)
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "sympy"}
    code = f"{statement}\nimport sys\nprint('loaded', *sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded"
